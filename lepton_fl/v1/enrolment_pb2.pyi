from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Invitation(_message.Message):
    __slots__ = ("institution", "addresses", "ca_certificate", "secret", "expires_at")
    INSTITUTION_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    CA_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    institution: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    ca_certificate: bytes
    secret: bytes
    expires_at: int
    def __init__(self, institution: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., ca_certificate: _Optional[bytes] = ..., secret: _Optional[bytes] = ..., expires_at: _Optional[int] = ...) -> None: ...

class EnrollRequest(_message.Message):
    __slots__ = ("secret", "certificate_request")
    SECRET_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    secret: bytes
    certificate_request: bytes
    def __init__(self, secret: _Optional[bytes] = ..., certificate_request: _Optional[bytes] = ...) -> None: ...

class EnrollReply(_message.Message):
    __slots__ = ("certificate", "institution", "addresses")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    INSTITUTION_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    institution: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, certificate: _Optional[bytes] = ..., institution: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ...) -> None: ...
