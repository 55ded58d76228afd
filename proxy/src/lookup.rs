//! Tables that are looked up in every request, and of which no caller chooses the keys.

/// A hash map whose hash costs a few instructions. The standard one withstands callers who fill a map with keys that collide;
/// what is in these comes from the configuration, or is an address of our own.
pub type Lookup<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;
