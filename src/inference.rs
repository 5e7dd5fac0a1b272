//! The caches of a model's layers, as the reference's `inference_params` keeps them.

use std::collections::BTreeMap;

use crate::cache::Cache;
use crate::error::{Result, fail};
use crate::layer::Layer;

/// Caches found by `layer_idx` and made at first use.
#[derive(Debug)]
pub struct InferenceParams {
    batch: usize,
    max_seqlen: usize,
    caches: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// On its own, so that a borrowed pointer to it stays valid when other layers' caches are added.
    cache: Box<Cache>,
    /// Which layer made it: [`Layer::id`].
    layer: u64,
}

impl InferenceParams {
    /// No caches yet, for `batch` sequences. `max_seqlen` changes nothing (see [`Cache::new`]).
    pub fn new(batch: usize, max_seqlen: usize) -> Self {
        InferenceParams { batch, max_seqlen, caches: BTreeMap::new() }
    }

    /// The batch of every cache.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Resets every cache; the layers keep theirs.
    pub fn reset(&mut self) {
        for entry in self.caches.values_mut() {
            entry.cache.reset();
        }
    }

    /// The cache of the layer of that number, `None` before its first use.
    pub fn cache(&mut self, layer_idx: u64) -> Option<&mut Cache> {
        self.caches.get_mut(&layer_idx).map(|entry| &mut *entry.cache)
    }

    /// The cache of `layer`, made now if this is its first use.
    ///
    /// # Errors
    /// `InvalidArgument` for a layer without a `layer_idx`, or one whose number another layer has taken;
    /// `OutOfMemory`.
    pub fn cache_for(&mut self, layer: &Layer) -> Result<&mut Cache> {
        let Some(layer_idx) = layer.config().layer_idx else {
            fail!(InvalidArgument, "layer has no layer_idx; inference parameters find caches by it");
        };
        if let Some(entry) = self.caches.get(&layer_idx) {
            if entry.layer != layer.id() {
                fail!(InvalidArgument, "layer has layer_idx {layer_idx}, which another layer uses already");
            }
        } else {
            let cache = Box::new(Cache::new(layer, self.batch, self.max_seqlen)?);
            self.caches.insert(layer_idx, Entry { cache, layer: layer.id() });
        }
        Ok(self.cache(layer_idx).expect("found or inserted above"))
    }
}
