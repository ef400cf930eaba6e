"""What S3's answers mean: gone, in conflict, worth another try, or for the user to put right."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import urllib3.exceptions
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProxyConnectionError,
)

from infra.errors import ConfigurationError, PipelineError, SourceError

#: What a request may raise: an answer that is an error, or no answer. urllib3's own errors come through when the
#: connection breaks inside the body of an error answer, which botocore reads without wrapping them.
REQUEST_ERRORS = (ClientError, BotoCoreError, urllib3.exceptions.HTTPError)
MISSING = {"404", "NoSuchKey", "NotFound"}
PRECONDITION_FAILED = {"412", "PreconditionFailed"}
UNSUPPORTED = {"501", "NotImplemented"}
NO_SUCH_UPLOAD = "NoSuchUpload"
INVALID_RANGE = {"416", "InvalidRange"}

_NO_ANSWER = (HTTPClientError, IncompleteReadError, FlexibleChecksumError, urllib3.exceptions.HTTPError)
_TRANSIENT_STATUS = {429, 500, 502, 503, 504}
_TRANSIENT_CODES = {
    # The server is busy or broken for now, or two conditional writes met.
    "SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "RequestTimeoutException", "Throttling",
    "ThrottlingException", "RequestThrottled", "RequestLimitExceeded", "BandwidthLimitExceeded",
    "TooManyRequestsException", "ConditionalRequestConflict", "OperationAborted",
    # The body was damaged or cut on its way.
    "BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody",
}  # fmt: skip
_CREDENTIALS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired"}
_DENIED = {"403", "401", "AccessDenied", "AllAccessDisabled", "AccountProblem"}
_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301", "307"}
_VARIABLES = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN with temporary keys)"


def code_of(error: Exception) -> str:
    """S3's error code (or the HTTP status where the answer had no body), '' when nothing answered."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status in _TRANSIENT_STATUS or code_of(error) in _TRANSIENT_CODES
    return isinstance(error, _NO_ANSWER)


def found_nobody(error: Exception) -> bool:
    """Whether the endpoint could not be connected to at all."""
    return isinstance(error, (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError))


def explain(error: Exception, uri: str, bucket: str, endpoint: str) -> Exception:
    """The error for the caller: FileNotFoundError, or one of ours that names the bucket and what to change.

    Never contains a key: S3's own text is passed on only for codes that are not about credentials.
    """
    if isinstance(error, PipelineError):
        return error
    code = code_of(error)
    if code in MISSING:
        return FileNotFoundError(uri)
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return ConfigurationError(
            f"there are no complete credentials for bucket '{bucket}'.",
            f"set {_VARIABLES}, or give the machine a role.",
        )
    if isinstance(error, NoRegionError):
        return ConfigurationError(f"no region is known for bucket '{bucket}'.", "set AWS_REGION.")
    if found_nobody(error):
        return SourceError(
            f"nothing answers at '{endpoint}', the endpoint for bucket '{bucket}'.",
            "check AWS_ENDPOINT_URL_S3, AWS_REGION and the network; finished shards are kept.",
        )
    if not isinstance(error, ClientError):
        return SourceError(
            f"'{uri}' failed: {type(error).__name__} at '{endpoint}', on every attempt.",
            "check the network and run again to continue; finished shards are kept.",
        )
    return _explain_answer(error, code, uri, bucket, endpoint)


def _explain_answer(error: ClientError, code: str, uri: str, bucket: str, endpoint: str) -> PipelineError:
    if code in _CREDENTIALS:
        return ConfigurationError(
            f"the credentials for bucket '{bucket}' were refused at '{endpoint}' ({code}).", f"correct {_VARIABLES}."
        )
    if code in _DENIED:
        return SourceError(
            f"'{uri}' was refused ({code}).",
            f"check {_VARIABLES}, and that the policy of bucket '{bucket}' allows s3:GetObject, s3:PutObject, "
            "s3:DeleteObject, s3:ListBucket, s3:ListBucketMultipartUploads and s3:AbortMultipartUpload there.",
        )
    if code == "NoSuchBucket":
        return ConfigurationError(
            f"bucket '{bucket}' does not exist at '{endpoint}'.", "create it, or correct its name in the uri."
        )
    if code == "RequestTimeTooSkewed":
        return ConfigurationError(
            f"'{endpoint}' refuses requests for bucket '{bucket}': {_clock_difference(error)}.",
            "set this machine's clock (NTP); nothing was lost.",
        )
    if code in _REGION:
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = headers.get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region")
        return ConfigurationError(
            f"bucket '{bucket}' is in another region ({code}).",
            f"set AWS_REGION={region}." if region else "set AWS_REGION to the bucket's region.",
        )
    message = error.response.get("Error", {}).get("Message", "")
    return SourceError(
        f"'{uri}' failed: {code} {message}".rstrip(". ") + ".",
        "check the endpoint and run again to continue; finished shards are kept.",
    )


def _clock_difference(error: ClientError) -> str:
    stated = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        seconds = (datetime.now(UTC) - parsedate_to_datetime(stated)).total_seconds()
    except (TypeError, ValueError):
        return "this machine's clock and the server's differ too much"
    direction = "ahead of" if seconds > 0 else "behind"
    return f"this machine's clock is {abs(seconds):.0f} seconds {direction} the server's"
