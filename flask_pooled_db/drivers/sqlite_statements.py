"""What an SQL statement may do in SQLite, as its text shows it."""

from __future__ import annotations

import functools
import re
from typing import NamedTuple


class Effect(NamedTuple):
    """What has to be done about a statement before it runs."""

    means: str
    writes: bool = False  # so it belongs in a transaction
    changes_session: bool = False  # so the connection must not be lent again
    is_dml: bool = False  # as sqlite3 has it, which begins a transaction for it


READS = Effect("it certainly writes nothing, and leaves the session as it was")
WRITES = Effect("it may write", writes=True)
CHANGES_ROWS = Effect("it may write, and begins with what sqlite3 looks for", True, is_dml=True)
CONTROLS = Effect("it begins or ends a transaction itself, or fails outside of one")
CHANGES = Effect("it may change the session, and writes nothing", changes_session=True)
WRITES_AND_CHANGES = Effect("it may write and change the session", True, True)

# What SQLite skips before and between tokens: https://www.sqlite.org/lang_comment.html. The group
# is atomic. If it could be matched again in another way, a comment might take in what follows it.
_GAP = r"(?>(?:[ \t\n\f\r;\ufeff]+|--[^\n]*|/\*(?>.*?\*/|.*))*)"
# https://www.sqlite.org/draft/tokenreq.html. A letter beyond ASCII, or a $, is part of a name.
_LETTER = r"[\w$\u0080-\U0010ffff]"
_NAME = rf"""(?:{_LETTER}++|"(?:[^"]|"")*+"|'(?:[^']|'')*+'|`(?:[^`]|``)*+`|\[[^\]]*+\])"""
_SCHEMA = rf"(?:{_NAME}{_GAP}\.{_GAP})?"
_END = rf"(?!{_LETTER}|{_GAP}\.)"  # of a pragma's name

# What sqlite3 looks for: `pysqlite_statement_create` in CPython's Modules/_sqlite/statement.c.
_IS_DML = re.compile(
    r"(?>(?:[ \t\f\n\r]|--[^\n]*\n|/\*.*?\*/)*)(?:insert|update|delete|replace)",
    re.ASCII | re.DOTALL | re.IGNORECASE,
)

# https://www.sqlite.org/pragma.html. Those that set the connection alone, given a value:
_SETTINGS = (
    "analysis_limit|automatic_index|busy_timeout|cache_size|cache_spill|case_sensitive_like|"
    "cell_size_check|checkpoint_fullfsync|count_changes|empty_result_callbacks|foreign_keys|"
    "full_column_names|fullfsync|ignore_check_constraints|journal_size_limit|legacy_alter_table|"
    "locking_mode|max_page_count|mmap_size|query_only|read_uncommitted|recursive_triggers|"
    "reverse_unordered_selects|secure_delete|short_column_names|synchronous|temp_store|threads|"
    "trusted_schema|wal_autocheckpoint|writable_schema"
)
# Those that write a number into the file, given one, or that hold for the transaction alone:
_IN_TRANSACTION = "application_id|defer_foreign_keys|schema_version|user_version"
# Of SQLCipher, https://www.zetetic.net/sqlcipher/sqlcipher-api/:
_OF_CIPHER = (
    "cipher|cipher_(?:add_random|compatibility|default_\\w+|fips_status|hmac_algorithm|hmac_pgno|"
    "hmac_salt_mask|integrity_check|kdf_algorithm|license|log|log_level|log_source|memory_security|"
    "page_size|plaintext_header_size|profile|provider|provider_version|salt|settings|status|"
    "store_pass|use_hmac|version)|fast_kdf_iter|kdf_iter"
)
# Those that only read, if they are given no value:
_ANSWERS = (
    f"{_SETTINGS}|{_IN_TRANSACTION}|{_OF_CIPHER}|auto_vacuum|collation_list|compile_options|"
    "data_store_directory|data_version|database_list|encoding|freelist_count|function_list|"
    "hard_heap_limit|journal_mode|module_list|page_count|page_size|pragma_list|soft_heap_limit|"
    "temp_store_directory"
)
# Those that only read, or copy what is committed into the file, whatever they are given:
_QUESTIONS = (
    "foreign_key_check|foreign_key_list|index_info|index_list|index_xinfo|integrity_check|"
    "quick_check|table_info|table_list|table_xinfo|wal_checkpoint"
)

# FTS3 has a function `optimize` that writes, and pragma_optimize is a table that does. SQLCipher's
# `sqlcipher_export` fills another database.
# VACUUM leaves the contents as they are, and can't be part of a transaction. The journal mode WAL
# is what the pool's connections have; a file that is in it is not changed.
_READS = rf"""
    {_GAP}
    (?: \Z
      | (?:EXPLAIN\b{_GAP}(?:QUERY\b{_GAP}PLAN\b{_GAP})?)?
        (?: (?:SELECT|VALUES)\b (?!.*(?:optimize|sqlcipher_export))
          | WITH\b (?!.*(?:optimize|sqlcipher_export|\b(?:INSERT|UPDATE|DELETE|REPLACE)\b)) )
      | PRAGMA\b{_GAP}{_SCHEMA} (?: (?:{_ANSWERS}){_GAP}\Z | (?:{_QUESTIONS}){_END} )
      | PRAGMA\b{_GAP}{_SCHEMA} journal_mode{_GAP}={_GAP}WAL{_GAP}\Z
      | VACUUM\b )
"""
_WRITES = rf"""
    {_GAP}
    (?: (?:INSERT|UPDATE|DELETE|REPLACE|WITH)\b
      | PRAGMA\b{_GAP}{_SCHEMA}(?:{_IN_TRANSACTION}|incremental_vacuum|optimize){_END} )
"""
_CONTROLS = rf"{_GAP}(?:BEGIN|COMMIT|END|ROLLBACK|RELEASE)\b"
_CHANGES = rf"{_GAP}(?:ATTACH|DETACH|PRAGMA\b{_GAP}{_SCHEMA}(?:{_SETTINGS}|{_OF_CIPHER}))\b"


# SQLite's keywords have no letters beyond ASCII, however similar.
_FLAGS = re.ASCII | re.DOTALL | re.IGNORECASE | re.VERBOSE
# The first that fits counts.
_EFFECTS = (
    (_READS, READS),
    (_WRITES, WRITES),
    (_CONTROLS, CONTROLS),
    (_CHANGES, CHANGES),
    # The schema of what belongs to the connection is named in it. EXPLAIN runs some pragmas.
    (r".*(?:temp|pragma)", WRITES_AND_CHANGES),
)

_PRAGMA = rf"""
    {_GAP} (?:EXPLAIN\b{_GAP}(?:QUERY\b{_GAP}PLAN\b{_GAP})?)?
    PRAGMA\b {_GAP} (?:(?P<schema>{_NAME}){_GAP}\.{_GAP})?
    ["'`\[]?(?P<name>\w++)["'`\]]? (?P<value>{_GAP}[=(])?
"""


# At the first statement, and not as every process is started: it takes 30 ms.
@functools.cache
def _effects() -> tuple[tuple[re.Pattern[str], Effect], ...]:
    return tuple((re.compile(pattern, _FLAGS), effect) for pattern, effect in _EFFECTS)


@functools.cache
def _pragma() -> re.Pattern[str]:
    return re.compile(_PRAGMA, _FLAGS)


_MAIN = re.compile(r"""["'`\[]?(?:main|temp)["'`\]]?""", _FLAGS)
_OF_PROCESS = re.compile(
    "(?:soft|hard)_heap_limit|(?:temp|data)_store_directory|"
    "cipher_(?:add_random|log|log_level|log_source|memory_security|profile)",
    _FLAGS,
)
_OF_FILE = re.compile(r"cipher\w*|(?:fast_|rekey_)?kdf_iter", _FLAGS)
_OF_ALL_FILES = re.compile(
    r"cipher_(?:migrate|default_\w+)|(?:hex|text)?(?:re)?key|rekey_\w+", _FLAGS
)


class Pragma(NamedTuple):
    """What a PRAGMA names."""

    name: str
    schema: str  # as it is written
    has_value: bool

    @property
    def is_of_process(self) -> bool:
        """Whether it sets something for all connections of the process."""
        return self.has_value and _OF_PROCESS.fullmatch(self.name) is not None

    @property
    def rekeys(self) -> bool:
        """Whether it changes the key, or what all files are encrypted with."""
        acts = self.has_value or self.name.lower() == "cipher_migrate"
        return acts and _OF_ALL_FILES.fullmatch(self.name) is not None

    @property
    def is_of_cipher(self) -> bool:
        """Whether it sets how its file is encrypted."""
        is_of_file = _OF_FILE.fullmatch(self.name) is not None
        return self.has_value and is_of_file and not _OF_PROCESS.fullmatch(self.name)

    @property
    def is_of_attached(self) -> bool:
        """Whether it is about a database that was attached."""
        return self.schema != "" and _MAIN.fullmatch(self.schema) is None


def pragma_in(sql: str) -> Pragma | None:
    """Return the PRAGMA that a statement is, or None."""
    found = _pragma().match(sql)
    if found is None:
        return None
    return Pragma(found["name"], found["schema"] or "", found["value"] is not None)


def effect_of(sql: str) -> Effect:
    """Return what a statement does. What is not known counts as writing."""
    effect = next((effect for pattern, effect in _effects() if pattern.match(sql)), WRITES)
    return CHANGES_ROWS if effect is WRITES and _IS_DML.match(sql) else effect
