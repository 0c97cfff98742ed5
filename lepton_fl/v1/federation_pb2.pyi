from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ClientFrame(_message.Message):
    __slots__ = ("hello", "begin", "chunk", "heartbeat", "decision", "ledger_head", "cosigned", "energy")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    LEDGER_HEAD_FIELD_NUMBER: _ClassVar[int]
    COSIGNED_FIELD_NUMBER: _ClassVar[int]
    ENERGY_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    begin: Begin
    chunk: Chunk
    heartbeat: Heartbeat
    decision: Decision
    ledger_head: LedgerHead
    cosigned: Cosigned
    energy: Energy
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., begin: _Optional[_Union[Begin, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., decision: _Optional[_Union[Decision, _Mapping]] = ..., ledger_head: _Optional[_Union[LedgerHead, _Mapping]] = ..., cosigned: _Optional[_Union[Cosigned, _Mapping]] = ..., energy: _Optional[_Union[Energy, _Mapping]] = ...) -> None: ...

class ServerFrame(_message.Message):
    __slots__ = ("welcome", "begin", "chunk", "heartbeat", "ack", "goodbye", "countersigned", "checkpoint")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    COUNTERSIGNED_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    begin: Begin
    chunk: Chunk
    heartbeat: Heartbeat
    ack: Ack
    goodbye: Goodbye
    countersigned: Countersigned
    checkpoint: Checkpoint
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., begin: _Optional[_Union[Begin, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ..., countersigned: _Optional[_Union[Countersigned, _Mapping]] = ..., checkpoint: _Optional[_Union[Checkpoint, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "lepton_version", "instruction", "identity", "log_head")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    LEPTON_VERSION_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    LOG_HEAD_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    lepton_version: str
    instruction: Held
    identity: Identity
    log_head: bytes
    def __init__(self, protocol: _Optional[int] = ..., lepton_version: _Optional[str] = ..., instruction: _Optional[_Union[Held, _Mapping]] = ..., identity: _Optional[_Union[Identity, _Mapping]] = ..., log_head: _Optional[bytes] = ...) -> None: ...

class Identity(_message.Message):
    __slots__ = ("public_key", "signature")
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    public_key: bytes
    signature: Signature
    def __init__(self, public_key: _Optional[bytes] = ..., signature: _Optional[_Union[Signature, _Mapping]] = ...) -> None: ...

class Held(_message.Message):
    __slots__ = ("message_id", "sha256", "bytes", "is_whole")
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    IS_WHOLE_FIELD_NUMBER: _ClassVar[int]
    message_id: str
    sha256: bytes
    bytes: int
    is_whole: bool
    def __init__(self, message_id: _Optional[str] = ..., sha256: _Optional[bytes] = ..., bytes: _Optional[int] = ..., is_whole: bool = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("node_id", "run_id", "institution", "contract", "signature")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    INSTITUTION_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    node_id: int
    run_id: int
    institution: str
    contract: bytes
    signature: Signature
    def __init__(self, node_id: _Optional[int] = ..., run_id: _Optional[int] = ..., institution: _Optional[str] = ..., contract: _Optional[bytes] = ..., signature: _Optional[_Union[Signature, _Mapping]] = ...) -> None: ...

class Signature(_message.Message):
    __slots__ = ("certificate", "value")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    value: bytes
    def __init__(self, certificate: _Optional[bytes] = ..., value: _Optional[bytes] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("contract_sha256", "signature", "refused")
    CONTRACT_SHA256_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    contract_sha256: bytes
    signature: Signature
    refused: str
    def __init__(self, contract_sha256: _Optional[bytes] = ..., signature: _Optional[_Union[Signature, _Mapping]] = ..., refused: _Optional[str] = ...) -> None: ...

class LedgerHead(_message.Message):
    __slots__ = ("ledger", "position", "sha256")
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    ledger: bytes
    position: int
    sha256: bytes
    def __init__(self, ledger: _Optional[bytes] = ..., position: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class Countersigned(_message.Message):
    __slots__ = ("head", "at", "signature")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    head: LedgerHead
    at: float
    signature: Signature
    def __init__(self, head: _Optional[_Union[LedgerHead, _Mapping]] = ..., at: _Optional[float] = ..., signature: _Optional[_Union[Signature, _Mapping]] = ...) -> None: ...

class Checkpoint(_message.Message):
    __slots__ = ("note", "from_size", "consistency", "last_round", "cosigned")
    NOTE_FIELD_NUMBER: _ClassVar[int]
    FROM_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    LAST_ROUND_FIELD_NUMBER: _ClassVar[int]
    COSIGNED_FIELD_NUMBER: _ClassVar[int]
    note: bytes
    from_size: int
    consistency: _containers.RepeatedScalarFieldContainer[bytes]
    last_round: Included
    cosigned: _containers.RepeatedCompositeFieldContainer[Witnessed]
    def __init__(self, note: _Optional[bytes] = ..., from_size: _Optional[int] = ..., consistency: _Optional[_Iterable[bytes]] = ..., last_round: _Optional[_Union[Included, _Mapping]] = ..., cosigned: _Optional[_Iterable[_Union[Witnessed, _Mapping]]] = ...) -> None: ...

class Included(_message.Message):
    __slots__ = ("index", "entry", "proof")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    index: int
    entry: bytes
    proof: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, index: _Optional[int] = ..., entry: _Optional[bytes] = ..., proof: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Witnessed(_message.Message):
    __slots__ = ("institution", "note", "consistency")
    INSTITUTION_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    institution: str
    note: bytes
    consistency: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, institution: _Optional[str] = ..., note: _Optional[bytes] = ..., consistency: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Cosigned(_message.Message):
    __slots__ = ("note",)
    NOTE_FIELD_NUMBER: _ClassVar[int]
    note: bytes
    def __init__(self, note: _Optional[bytes] = ...) -> None: ...

class Begin(_message.Message):
    __slots__ = ("message_id", "reply_to_message_id", "envelope_bytes", "array_bytes", "sha256", "offset", "reply")
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    REPLY_TO_MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ARRAY_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    message_id: str
    reply_to_message_id: str
    envelope_bytes: int
    array_bytes: _containers.RepeatedScalarFieldContainer[int]
    sha256: bytes
    offset: int
    reply: Held
    def __init__(self, message_id: _Optional[str] = ..., reply_to_message_id: _Optional[str] = ..., envelope_bytes: _Optional[int] = ..., array_bytes: _Optional[_Iterable[int]] = ..., sha256: _Optional[bytes] = ..., offset: _Optional[int] = ..., reply: _Optional[_Union[Held, _Mapping]] = ...) -> None: ...

class Energy(_message.Message):
    __slots__ = ("run_id", "round", "phases")
    class Phase(_message.Message):
        __slots__ = ("name", "wall_s", "cpu_s", "components", "bytes_up", "bytes_down")
        NAME_FIELD_NUMBER: _ClassVar[int]
        WALL_S_FIELD_NUMBER: _ClassVar[int]
        CPU_S_FIELD_NUMBER: _ClassVar[int]
        COMPONENTS_FIELD_NUMBER: _ClassVar[int]
        BYTES_UP_FIELD_NUMBER: _ClassVar[int]
        BYTES_DOWN_FIELD_NUMBER: _ClassVar[int]
        name: str
        wall_s: float
        cpu_s: float
        components: _containers.RepeatedCompositeFieldContainer[Energy.Component]
        bytes_up: int
        bytes_down: int
        def __init__(self, name: _Optional[str] = ..., wall_s: _Optional[float] = ..., cpu_s: _Optional[float] = ..., components: _Optional[_Iterable[_Union[Energy.Component, _Mapping]]] = ..., bytes_up: _Optional[int] = ..., bytes_down: _Optional[int] = ...) -> None: ...
    class Component(_message.Message):
        __slots__ = ("name", "joules", "tier")
        NAME_FIELD_NUMBER: _ClassVar[int]
        JOULES_FIELD_NUMBER: _ClassVar[int]
        TIER_FIELD_NUMBER: _ClassVar[int]
        name: str
        joules: float
        tier: str
        def __init__(self, name: _Optional[str] = ..., joules: _Optional[float] = ..., tier: _Optional[str] = ...) -> None: ...
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PHASES_FIELD_NUMBER: _ClassVar[int]
    run_id: int
    round: int
    phases: _containers.RepeatedCompositeFieldContainer[Energy.Phase]
    def __init__(self, run_id: _Optional[int] = ..., round: _Optional[int] = ..., phases: _Optional[_Iterable[_Union[Energy.Phase, _Mapping]]] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Ack(_message.Message):
    __slots__ = ("reply_to_message_id",)
    REPLY_TO_MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    reply_to_message_id: str
    def __init__(self, reply_to_message_id: _Optional[str] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason", "stay_away")
    REASON_FIELD_NUMBER: _ClassVar[int]
    STAY_AWAY_FIELD_NUMBER: _ClassVar[int]
    reason: str
    stay_away: bool
    def __init__(self, reason: _Optional[str] = ..., stay_away: bool = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("certificate_request",)
    CERTIFICATE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    certificate_request: bytes
    def __init__(self, certificate_request: _Optional[bytes] = ...) -> None: ...

class RenewReply(_message.Message):
    __slots__ = ("certificate",)
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    def __init__(self, certificate: _Optional[bytes] = ...) -> None: ...

class ProbeRequest(_message.Message):
    __slots__ = ("protocol", "lepton_version")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    LEPTON_VERSION_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    lepton_version: str
    def __init__(self, protocol: _Optional[int] = ..., lepton_version: _Optional[str] = ...) -> None: ...

class ProbeReply(_message.Message):
    __slots__ = ("institution", "protocol", "lepton_version", "server_time")
    INSTITUTION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    LEPTON_VERSION_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_FIELD_NUMBER: _ClassVar[int]
    institution: str
    protocol: int
    lepton_version: str
    server_time: float
    def __init__(self, institution: _Optional[str] = ..., protocol: _Optional[int] = ..., lepton_version: _Optional[str] = ..., server_time: _Optional[float] = ...) -> None: ...
