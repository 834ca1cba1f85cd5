"""A connection lent to a caller: its states, the transaction, what the caller sees, the scope.

It imports `errors`, `config`, `runtime`, `drivers` and `pool`, and knows no Flask.
"""
