//! The one reader and writer of the database.
