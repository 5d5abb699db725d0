//! Each order rule broken on purpose is found.
