//! Claims of the whole bitmap.
