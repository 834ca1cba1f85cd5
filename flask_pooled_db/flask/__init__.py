"""Everything that knows Flask: the extension, the app context's leases, what a client is answered.

Nothing below imports this folder, and no other folder imports Flask.
"""
