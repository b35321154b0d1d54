"""Credentials of an AWS role for the Google Cloud machine that this runs on, without any key.

    credential_process = python -m ray_si.provision.google_identity arn:aws:iam::1111...:role/x

The machine's metadata server signs who it is; AWS trades that for an hour of the role, which
trusts the machine's service account (cluster/README.md). boto3 runs this again when the hour is
nearly over. GCE_METADATA_HOST names another metadata server, as in Google's own libraries.
"""

import json
import os
import sys
import urllib.request

import boto3
from botocore import UNSIGNED
from botocore.config import Config

AUDIENCE = "ray-si"
"""Whom the signature is for; the role's trust policy names it."""


def identity() -> str:
    """The machine's identity, signed by Google."""
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    path = f"computeMetadata/v1/instance/service-accounts/default/identity?audience={AUDIENCE}"
    request = urllib.request.Request(f"http://{host}/{path}", headers={"Metadata-Flavor": "Google"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        token: str = answer.read().decode()
    return token


def main() -> None:
    """Print the credentials as botocore's process provider reads them."""
    sts = boto3.client("sts", config=Config(signature_version=UNSIGNED))
    answer = sts.assume_role_with_web_identity(
        RoleArn=sys.argv[1], RoleSessionName="ray-si", WebIdentityToken=identity()
    )
    found = answer["Credentials"]
    names = "AccessKeyId", "SecretAccessKey", "SessionToken"
    print(
        json.dumps(
            {"Version": 1, "Expiration": found["Expiration"].isoformat()}
            | {name: found[name] for name in names}
        )
    )


if __name__ == "__main__":
    main()
