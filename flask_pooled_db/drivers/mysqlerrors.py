"""The error numbers of MariaDB and MySQL, and what each means for the transaction.

The server's: https://mariadb.com/kb/en/mariadb-error-code-reference/ and, for what InnoDB rolls
back, convert_error_code_to_mysql() in its storage/innobase/handler/ha_innodb.cc. The client's own,
2000 to 2999 and 5000 to 5999: https://mariadb.com/kb/en/mariadb-connectorc-error-codes/ and
include/errmsg.h of MariaDB Connector/C.
"""

from __future__ import annotations

LOST = frozenset(
    {
        1042,  # can't get the client's host name
        1043,  # bad handshake
        1053,  # server shutdown in progress
        1077,  # to 1080: the server is shutting down, got a signal, has shut down, forces a close
        1078,
        1079,
        1080,
        1152,  # aborted connection
        1153,  # packet larger than max_allowed_packet: the server closes the connection
        1154,  # to 1161: network errors, packets out of order; the client's libraries use them too
        1155,
        1156,
        1157,
        1158,
        1159,
        1160,
        1161,
        1184,  # aborted connection
        1835,  # malformed packet
        1927,  # connection was killed
        4031,  # disconnected by the server because of inactivity (MySQL)
    }
)
# Errors that the client's library makes by itself before it sends anything: wrong parameters, a
# statement that was not prepared. Its other errors don't prove what the server did: what could not
# be written (2006, 5014) or read (2013, 5013) as a whole, what can't be understood (2027, 5015,
# 5018), and what was called out of turn (2014), which leaves an answer unread.
CLIENT_REFUSED = frozenset(
    {
        2030,  # statement not prepared
        2031,  # no data for its parameters
        2033,  # no parameters in it
        2034,  # invalid parameter number
        2035,  # can't send long data for non-string types
        2036,  # unsupported parameter type
        2053,  # no result set
        2054,  # not implemented
        2056,  # statement closed
        2057,  # other columns than those that were bound
        5003,  # function not supported
        5006,  # bulk operation without parameters
        5007,  # invalid statement handle
        5009,  # invalid parameter
        5016,  # the callback for parameters failed
    }
)
TIME_IS_UP = 3024  # MySQL alone: max_execution_time
OUT_OF_TIME = 1969  # MariaDB alone: max_statement_time
ROLLED_BACK = frozenset(
    {
        1180,  # got error during COMMIT
        1181,  # got error during ROLLBACK
        1206,  # InnoDB's lock table is full: the whole transaction is gone (DB_LOCK_TABLE_FULL)
        1213,  # deadlock: the whole transaction is gone (DB_DEADLOCK)
        1402,  # XA: rolled back
        1613,  # XA: rolled back, it took too long
        1614,  # XA: rolled back, deadlock
        1689,  # wait on a lock was aborted: another transaction has precedence
        TIME_IS_UP,
    }
)
# A Galera node that is not in the primary component refuses everything.
UNUSABLE = frozenset({1047})
# What a server says to a write once it is a replica.
READ_ONLY = frozenset({1290, 1836})
# Whether these end the statement or the transaction depends on the server's settings
# (innodb_rollback_on_timeout, innodb_snapshot_isolation), so the server is asked.
ASK_SERVER = frozenset({1020, 1205})

# Connecting again won't help: access denied (1044, 1045, 1698), unknown database (1049),
# host not allowed (1130), an authentication method that one side lacks (1251, 1275, 1524).
PERMANENT = frozenset({1044, 1045, 1049, 1130, 1251, 1275, 1524, 1698})

# The transaction may succeed if it is started over: a row changed since it was read, lock wait
# timeout, deadlock, a lock that NOWAIT does not wait for (MySQL; MariaDB has 1205 for it too).
RETRYABLE = frozenset({1020, 1205, 1213, 3572})

NO_SUCH_CONNECTION = 1094  # to be killed
UNKNOWN_VARIABLE = 1193
INTERRUPTED = 1317  # by KILL QUERY

# A Galera node that leaves its cluster during COMMIT says this, but the other nodes may have the
# transaction.
ERROR_DURING_COMMIT = 1180

# Errors of a statement on rows that undo this statement alone, all from SQL's own rules: nobody
# need be asked about the transaction.
HARMLESS = frozenset(
    {
        *(1046, 1048, 1049, 1052, 1054, 1056, 1060, 1062, 1063, 1064, 1065, 1066),
        *(1103, 1109, 1110, 1111, 1112, 1115, 1136, 1140, 1142, 1143, 1144, 1146, 1149),
        *(1169, 1172, 1216, 1217, 1221, 1222, 1227, 1235, 1241, 1242, 1247, 1248, 1250, 1253),
        *(1264, 1265, 1267, 1270, 1271, 1286, 1288, 1290, 1292, 1305, 1318, 1325, 1327, 1329),
        *(1347, 1348, 1356, 1362, 1364, 1365, 1366, 1369, 1370, 1393, 1394, 1395, 1406, 1411),
        *(1424, 1426, 1427, 1441, 1442, 1451, 1452, 1462, 1471, 1525, 1557, 1582, 1586, 1630),
        *(1644, 1690, 1691, 1748, 1761, 1762, 1792, 1836, 1859, 1869, 1906, 1969, 1986),
        *(3140, 3572, 3819, 4025, 4037, 4038),
    }
)


def is_clients(number: int) -> bool:
    """Return whether a number is one of the client's own, or none that a server has."""
    return number < 1000 or number // 1000 in (2, 5)
