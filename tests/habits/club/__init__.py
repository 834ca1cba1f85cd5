"""A club's members and events, in the shape of an app on flask_mysqldb."""
