//! Which layers images have in common, and so what the removal of each one frees.

use std::collections::{HashMap, HashSet};

use crate::facts::{Image, Layer};
use crate::ledger::Ledger;

/// The layers of all images as a forest: an image is a path from a base layer up, and a layer is shared only where all
/// layers below it are.
#[derive(Debug)]
pub struct Sharing<'a> {
    /// Size in bytes, and how many images have it.
    layers: Vec<(u64, usize)>,
    /// By image ID: places in `layers`.
    images: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Sharing<'a> {
    /// Of these images, as far as the ledger knows their layers.
    pub fn new(images: &'a [Image], ledger: &'a Ledger) -> Self {
        let mut sharing = Self { layers: Vec::new(), images: HashMap::new() };
        let mut places: HashMap<(Option<usize>, &str), usize> = HashMap::new();
        for image in images {
            let Some(layers) = ledger.images.get(&image.id).and_then(|entry| entry.layers.as_deref()) else {
                continue;
            };
            let mut below = None;
            let mut path = Vec::new();
            for Layer { id, size } in layers {
                let place = *places.entry((below, id)).or_insert_with(|| {
                    sharing.layers.push((*size, 0));
                    sharing.layers.len() - 1
                });
                sharing.layers[place].1 += 1;
                below = Some(place);
                path.push(place);
            }
            sharing.images.insert(&image.id, path);
        }
        sharing
    }

    /// What would be free if all of these images went: for each the bytes of its layers that no other image has. `None`
    /// where its layers are not known.
    pub fn own_among(&self, ids: &HashSet<&str>) -> HashMap<&'a str, u64> {
        let mut left: Vec<usize> = self.layers.iter().map(|(_, holders)| *holders).collect();
        let going = || self.images.iter().filter(|(id, _)| ids.contains(*id));
        for place in going().flat_map(|(_, path)| path) {
            left[*place] -= 1;
        }
        let own = |place: &usize| if left[*place] == 0 { self.layers[*place].0 } else { 0 };
        going().map(|(id, path)| (*id, path.iter().map(own).sum())).collect()
    }

    /// Remove an image; returns the bytes that this frees. `None` where its layers are not known.
    pub fn remove(&mut self, id: &str) -> Option<u64> {
        let path = self.images.remove(id)?;
        let mut freed = 0_u64;
        for place in path {
            let (size, holders) = &mut self.layers[place];
            *holders -= 1;
            if *holders == 0 {
                freed = freed.saturating_add(*size);
            }
        }
        Some(freed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Entry;
    use crate::testing::{image, now};

    /// Images by their names, each with its layers and their sizes.
    fn host(images: &[(&str, &[(&str, u64)])]) -> (Vec<Image>, Ledger) {
        let mut ledger = Ledger::default();
        for (name, layers) in images {
            let layers = layers.iter().map(|(id, size)| Layer::new(id, *size)).collect();
            let entry = Entry { layers: Some(layers), ..Entry::new(now()) };
            ledger.images.insert(image(name).id, entry);
        }
        (images.iter().map(|(name, _)| image(name)).collect(), ledger)
    }

    #[test]
    fn a_layer_goes_with_the_last_image_that_has_it() {
        let (mut images, ledger) = host(&[
            ("a", &[("base", 100), ("a", 1)]),
            ("b", &[("base", 100), ("b", 2)]),
            // The same content on another layer is another layer.
            ("c", &[("other", 50), ("b", 2)]),
            ("d", &[("base", 100)]),
        ]);
        images.push(image("unknown"));
        let mut sharing = Sharing::new(&images, &ledger);
        let ids = HashSet::from(["sha256:a", "sha256:b", "sha256:unknown"]);
        assert_eq!(sharing.own_among(&ids), HashMap::from([("sha256:a", 1), ("sha256:b", 2)]));
        let all = HashSet::from(["sha256:a", "sha256:b", "sha256:d"]);
        assert_eq!(sharing.own_among(&all)["sha256:d"], 100);
        let freed = ["sha256:a", "sha256:d", "sha256:unknown", "sha256:b", "sha256:c", "sha256:c"]
            .map(|id| sharing.remove(id));
        assert_eq!(freed, [Some(1), Some(0), None, Some(102), Some(52), None]);
    }
}
