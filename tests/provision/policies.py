"""What IAM policies of a template allow, by the rules that matter here.

Allow statements only; wildcards in actions and resources; conditions StringEquals, StringLike and
ForAllValues:StringLike, of which all must hold. A key that a request lacks holds for ForAllValues
and for nothing else. See IAM's "Policy evaluation logic".
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import yaml

ACCOUNT, REGION = "111122223333", "us-east-1"


class _Loader(yaml.SafeLoader):
    """CloudFormation's tags as what they stand for in one account."""


def _tag(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return {suffix: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {suffix: loader.construct_sequence(node, deep=True)}
    return {suffix: loader.construct_mapping(node, deep=True)}


_Loader.add_multi_constructor("!", _tag)


def load_template(text: str) -> dict[str, Any]:
    """A CloudFormation template; its functions are mappings from their name."""
    template: dict[str, Any] = yaml.load(text, _Loader)
    return template


def _resolved(value: Any, template: dict[str, Any]) -> Any:
    """Text for functions; resources by their names."""
    if isinstance(value, list):
        return [_resolved(item, template) for item in value]
    if not isinstance(value, dict):
        return value
    parameters = template["Parameters"]
    names = {"AWS::Partition": "aws", "AWS::Region": REGION, "AWS::AccountId": ACCOUNT}
    names |= {"Bucket": parameters["Bucket"]["Default"], "Group.GroupId": "sg-1"}
    if "Sub" in value:
        text = value["Sub"]
        for name, replacement in names.items():
            text = text.replace("${" + name + "}", replacement)
        return text
    if "GetAtt" in value:
        resource = template["Resources"][value["GetAtt"].partition(".")[0]]
        return f"arn:aws:iam::{ACCOUNT}:role/{resource['Properties']['RoleName']}"
    return {key: _resolved(item, template) for key, item in value.items()}


def statements(template: dict[str, Any], role: str) -> list[dict[str, Any]]:
    """Of all policies of a role, by its name in the template."""
    policies = template["Resources"][role]["Properties"]["Policies"]
    return [
        _resolved(statement, template)
        for policy in policies
        for statement in policy["PolicyDocument"]["Statement"]
    ]


def is_allowed(
    allowed: list[dict[str, Any]], action: str, resource: str = "*", **context: str | list[str]
) -> bool:
    """Whether any statement allows it; ``context`` keys with "__" for ":" and "___" for "/"."""
    keys = {k.replace("___", "/").replace("__", ":"): _list(v) for k, v in context.items()}
    return any(
        _matches(action, statement["Action"])
        and _matches(resource, statement["Resource"])
        and _holds(statement.get("Condition", {}), keys)
        for statement in allowed
    )


def _matches(text: str, patterns: str | list[str]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in _list(patterns))


def _holds(conditions: dict[str, dict[str, Any]], context: dict[str, list[str]]) -> bool:
    for operator, wanted in conditions.items():
        for key, patterns in wanted.items():
            values = context.get(key)
            if operator == "ForAllValues:StringLike":
                if not all(_matches(value, patterns) for value in values or []):
                    return False
            elif operator in ("StringEquals", "StringLike"):
                exact = operator == "StringEquals"
                if not values or not any(
                    value in _list(patterns) if exact else _matches(value, patterns)
                    for value in values
                ):
                    return False
            else:
                raise AssertionError(f"what does {operator} mean?")
    return True


def _list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
