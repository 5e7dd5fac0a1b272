//! Layers one after another, and the states of all streams in one cache for each: a stream is a lane.

use std::error::Error;
use std::fs;
use std::path::Path;

use lite_mamba::{Cache, Layer, Result, Tokens, weights};

use crate::state::checksum;

/// The layers, each adding its output to its input, and the state of every lane.
pub struct Model {
    layers: Vec<Layer>,
    caches: Vec<Cache>,
    fingerprint: u64,
}

impl Model {
    /// The layers of a safetensors file with these prefixes, or the one layer that the file is. No lanes yet.
    ///
    /// # Errors
    /// A file or layer that cannot be loaded, and layers of different widths.
    pub fn load(path: &Path, prefixes: &[String]) -> std::result::Result<Model, Box<dyn Error>> {
        let file = fs::read(path).map_err(|error| format!("cannot read {path:?}: {error}"))?;
        let layers = if prefixes.is_empty() {
            vec![weights::load_memory(&file, None, None)?]
        } else {
            let load = |prefix: &String| weights::load_memory(&file, Some(prefix), None);
            prefixes.iter().map(load).collect::<Result<_>>()?
        };
        let widths: Vec<_> = layers.iter().map(|layer| layer.dims().d_model).collect();
        if widths.iter().any(|&width| width != widths[0]) {
            return Err(format!("the layers have d_model {widths:?}; all must have the same").into());
        }
        let caches = layers.iter().map(|layer| Cache::new(layer, 0, 0)).collect::<Result<_>>()?;
        let fingerprint = checksum(&[&file, prefixes.join(",").as_bytes()].concat());
        Ok(Model { layers, caches, fingerprint })
    }

    /// What tells this model from others, by its file.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Values of a token.
    pub fn d_model(&self) -> usize {
        self.layers[0].dims().d_model
    }

    /// Streams that there is room for.
    pub fn lanes(&self) -> usize {
        self.caches[0].batch()
    }

    /// Bytes of all states.
    pub fn bytes(&self) -> usize {
        self.caches.iter().map(Cache::bytes).sum()
    }

    /// Caches of `batch` lanes, of which the first are copies of `lanes`.
    fn gather(&self, lanes: impl Iterator<Item = usize> + Clone, batch: usize) -> Result<Vec<Cache>> {
        let copy = |(layer, from): (&Layer, &Cache)| {
            let mut cache = Cache::new(layer, batch, 0)?;
            lanes.clone().enumerate().try_for_each(|(to, lane)| cache.copy_lane(to, from, lane))?;
            Ok(cache)
        };
        self.layers.iter().zip(&self.caches).map(copy).collect()
    }

    /// Makes room for more streams; those that there are keep their lanes.
    ///
    /// # Errors
    /// `OutOfMemory`; nothing has changed then.
    pub fn grow(&mut self, lanes: usize) -> Result<()> {
        self.caches = self.gather(0..self.lanes(), lanes)?;
        Ok(())
    }

    /// A lane as new.
    ///
    /// # Errors
    /// None that the batcher gives cause for.
    pub fn reset(&mut self, lane: usize) -> Result<()> {
        self.caches.iter_mut().try_for_each(|cache| cache.reset_lane(lane))
    }

    /// Brings tokens through all layers, in place: those from `starts[i]` to `starts[i + 1]` are the next ones of
    /// `lanes[i]`. No lane may be there twice.
    ///
    /// # Errors
    /// `OutOfMemory`, and none else that the batcher gives cause for. The lanes are undefined then.
    pub fn run(&mut self, lanes: &[usize], starts: &[usize], tokens: &mut [f32]) -> Result<()> {
        if starts.last() == Some(&lanes.len()) {
            // One token each: the lanes are stepped where they lie.
            return through(&self.layers, &mut self.caches, tokens, |layer, tokens, cache| {
                layer.step_lanes(tokens, lanes, cache)
            });
        }
        let mut some = self.gather(lanes.iter().copied(), lanes.len())?;
        through(&self.layers, &mut some, tokens, |layer, tokens, cache| {
            layer.forward_varlen(tokens, starts, Some(cache))
        })?;
        for (cache, some) in self.caches.iter_mut().zip(&some) {
            for (i, &lane) in lanes.iter().enumerate() {
                cache.copy_lane(lane, some, i)?;
            }
        }
        Ok(())
    }

    /// The saved states of `lanes`, for each layer.
    ///
    /// # Errors
    /// `OutOfMemory`
    pub fn save(&self, lanes: &[usize]) -> Result<Vec<Vec<u8>>> {
        let save = |cache: &Cache| {
            let mut bytes = vec![0; cache.saved_len()?];
            cache.save(&mut bytes)?;
            Ok(bytes)
        };
        self.gather(lanes.iter().copied(), lanes.len())?.iter().map(save).collect()
    }

    /// Puts the saved states of `lanes` lanes in the place of those that there are.
    ///
    /// # Errors
    /// Those of [`Cache::load`], and other numbers of layers or lanes.
    pub fn restore(&mut self, saved: &[&[u8]], lanes: usize) -> std::result::Result<(), Box<dyn Error>> {
        let caches: Vec<_> = (self.layers.iter().zip(saved))
            .map(|(layer, bytes)| Cache::load(layer, bytes))
            .collect::<Result<_>>()?;
        if saved.len() != self.layers.len() || caches.iter().any(|cache| cache.batch() != lanes) {
            return Err("the states of other layers or of another number of streams".into());
        }
        self.caches = caches;
        Ok(())
    }
}

/// h ← h + layer(h), for each layer.
fn through(
    layers: &[Layer],
    caches: &mut [Cache],
    h: &mut [f32],
    call: impl Fn(&Layer, Tokens<'_, f32>, &mut Cache) -> Result<()>,
) -> Result<()> {
    let mut y = vec![0.0; h.len()];
    for (layer, cache) in layers.iter().zip(caches) {
        call(layer, Tokens::Separate { x: h, y: &mut y }, cache)?;
        h.iter_mut().zip(&y).for_each(|(h, y)| *h += y);
    }
    Ok(())
}
