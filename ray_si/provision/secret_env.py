"""Shell lines that set environment variables to secrets, which AWS Secrets Manager holds.

    exports=$(python -m ray_si.provision.secret_env HF_TOKEN=arn:aws:...) && eval "$exports"

For nodes, whose role may read these and no others. Ends with status 1 and one line where a secret
is not there.
"""

from __future__ import annotations

import shlex
import sys

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from ray_si.errors import one_line


def export_line(variable: str, arn: str) -> str:
    """``export VARIABLE=...`` with the secret, quoted.

    ClientError where there is none, KeyError where it is binary.
    """
    client = boto3.client("secretsmanager", region_name=arn.split(":")[3])
    secret = client.get_secret_value(SecretId=arn)["SecretString"].strip()
    return f"export {variable}={shlex.quote(secret)}"


def main(references: list[str]) -> int:
    """Print the lines of VARIABLE=ARN references; the exit status."""
    lines = []
    for reference in references:
        variable, _, arn = reference.partition("=")
        try:
            lines.append(export_line(variable, arn))
        except (BotoCoreError, ClientError) as error:
            print(f"the secret of {variable} cannot be read: {one_line(error)}", file=sys.stderr)
            return 1
        except KeyError:
            print(f"the secret of {variable} is binary: it has to be text", file=sys.stderr)
            return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
