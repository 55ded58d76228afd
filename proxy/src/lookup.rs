//! Tables that are made when the configuration is read, and looked up in every request.

/// A hash map whose hash costs a few instructions. The standard one withstands callers who choose keys that collide; here no
/// caller chooses what is in the map, so none can make a look-up slow.
pub type Lookup<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;
