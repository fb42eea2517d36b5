"""Connections to object stores, and what is made of their answers.

Where a store is and who asks comes from the environment, as obstore reads it: AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL,
AWS_ALLOW_HTTP, ...; GOOGLE_SERVICE_ACCOUNT or GOOGLE_APPLICATION_CREDENTIALS; AZURE_STORAGE_ACCOUNT_NAME, ...
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from noterec.errors import ArtefactError, DependencyError, InputError

if TYPE_CHECKING:
    from obstore.store import ObjectStore, RetryConfig

SCHEMES = ("s3", "gs", "az")
# About half a minute of refused connections, a minute of silence: a store that is away for longer counts as gone.
RETRIES: RetryConfig = {
    "max_retries": 12,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"init_backoff": timedelta(seconds=0.5), "max_backoff": timedelta(seconds=10), "base": 2},
}
CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, or run where an instance role gives them "
    "(profiles in ~/.aws are not read: `aws configure export-credentials --format env` turns one into variables)",
    "gs": "set GOOGLE_SERVICE_ACCOUNT (or GOOGLE_APPLICATION_CREDENTIALS) to the key file of a service account, run "
    "`gcloud auth application-default login`, or run on an instance that has them",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or the variables of another kind of login",
}
ENDPOINT = {
    "s3": "AWS_ENDPOINT_URL (with AWS_ALLOW_HTTP=true for http://)",
    "gs": "the network",
    "az": "AZURE_ENDPOINT",
}

NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist")
NO_CREDENTIALS = re.compile(r"169\.254\.169\.254|metadata\.google\.internal|metadata/identity|[Cc]redential|[Aa]ccount")
NO_ANSWER = re.compile(r"error sending request|dns error|[Tt]imeout|timed out|[Cc]onnect|BadScheme")


class ConflictError(ArtefactError):
    """Somebody else created or changed the object since it was last read."""


@contextlib.contextmanager
def client(scheme: str, bucket: str, *, key: str, verb: str) -> Iterator[ObjectStore]:
    """Give the client of a bucket for one request, and turn a refusal into an error that says what to do.

    Args:
        scheme: s3, gs or az.
        bucket: its name.
        key: what the request is about, for messages.
        verb: what it does: read, write, remove or list.

    Raises:
        FileNotFoundError: no such object.
        ConflictError: a condition of the request doesn't hold.
        InputError: no such bucket, no credentials, no permission, no answer.
        DependencyError: obstore isn't installed.
    """
    url = f"{scheme}://{bucket}" + (f"/{key}" if key else "")
    try:
        from obstore import exceptions
    except ImportError as error:
        raise DependencyError(
            f"{url}: object stores need obstore, which isn't installed; pip install 'noterec[cloud]'"
        ) from error
    try:
        yield _store_of(scheme, bucket)
    except FileNotFoundError as error:
        if verb != "list" and not NO_BUCKET.search(str(error)):
            raise
        raise InputError(_lost(url, bucket)) from error
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError) as error:
        raise ConflictError(f"{url}: another job changed it meanwhile") from error
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise InputError(
            f"{url}: no permission to {verb} it{_said(error)}; give the account that asks the right to, or use another one: "
            f"{CREDENTIALS[scheme]}"
        ) from error
    except (exceptions.BaseError, OSError, ValueError) as error:
        text = str(error)
        if NO_BUCKET.search(text):
            said = _lost(url, bucket)
        elif NO_CREDENTIALS.search(text):
            said = f"{url}: no credentials to {verb} it with{_said(error)}; {CREDENTIALS[scheme]}"
        elif NO_ANSWER.search(text):
            said = f"{url}: the store can't be reached{_said(error)}; check the network and {ENDPOINT[scheme]}, then run again"
        else:
            said = f"{url}: the store refused to {verb} it{_said(error)}"
        raise InputError(said) from error


def _lost(url: str, bucket: str) -> str:
    return f"{url}: there is no bucket {bucket!r}; create it, or correct its name or the region"


_first: list[int] = []  # the process that connected first


def _store_of(scheme: str, bucket: str) -> ObjectStore:
    """The client of a bucket.

    Raises:
        RuntimeError: in a fork of a process that has one: its threads are missing there, and even the parent would hang.
    """
    if not _first:
        _first.append(os.getpid())
    elif _first[0] != os.getpid():
        raise RuntimeError("a forked process can't use its parent's connections to object stores; start it with spawn")
    return _client(scheme, bucket)


@functools.lru_cache(maxsize=64)
def _client(scheme: str, bucket: str) -> ObjectStore:
    from obstore.store import from_url

    return from_url(f"{scheme}://{bucket}", retry_config=RETRIES)


def _said(error: Exception) -> str:
    """The store's own words, without the debug output behind them."""
    text = str(error)
    code, message = (re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL) for tag in ("Code", "Message"))
    if code is not None:
        text = code[1] + (f": {message[1]}" if message else "")
    text = " ".join(text.partition("\n\nDebug source")[0].split())
    text = re.sub(r" in [0-9.]+[mnµ]?s\b|, max_retries: \d+|, retry_timeout: \w+", "", text)
    return f" ({text[:300]})" if text else ""
