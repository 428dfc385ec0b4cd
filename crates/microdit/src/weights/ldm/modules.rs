//! The same modules under two names each: latent diffusion's and diffusers'.

/// Names of the layers within a module, latent diffusion's first; where there are none, both sides call them alike.
pub(super) type Layers = &'static [(&'static str, &'static str)];

/// Layers that both sides call alike.
pub(super) const ALIKE: Layers = &[];

/// Modules of a network.
#[derive(Debug, Default)]
pub(super) struct Modules(Vec<Module>);

#[derive(Debug)]
struct Module {
    ldm: String,
    diffusers: String,
    layers: Layers,
}

/// Which side a name is of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Ldm,
    Diffusers,
}

impl Modules {
    pub(super) fn add(
        &mut self,
        ldm: impl Into<String>,
        diffusers: impl Into<String>,
        layers: Layers,
    ) {
        self.0.push(Module {
            ldm: ldm.into(),
            diffusers: diffusers.into(),
            layers,
        });
    }

    /// The other side's name of a parameter; none if it is in none of the modules.
    pub(super) fn translate(&self, name: &str, from: Side) -> Option<String> {
        self.0.iter().find_map(|module| {
            let (own, other) = match from {
                Side::Ldm => (&module.ldm, &module.diffusers),
                Side::Diffusers => (&module.diffusers, &module.ldm),
            };
            let rest = within(name, own)?;
            if module.layers.is_empty() {
                return Some(format!("{other}.{rest}"));
            }
            module.layers.iter().find_map(|&(ldm, diffusers)| {
                let (own, layer) = match from {
                    Side::Ldm => (ldm, diffusers),
                    Side::Diffusers => (diffusers, ldm),
                };
                Some(format!("{other}.{layer}.{}", within(rest, own)?))
            })
        })
    }
}

/// What follows `prefix.` in a name.
fn within<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    name.strip_prefix(prefix)?.strip_prefix('.')
}

/// How many there are of what is numbered from 0 behind `prefix.`.
pub(super) fn count<'a>(names: impl Iterator<Item = &'a str>, prefix: &str) -> usize {
    let numbers = names.filter_map(|name| {
        let number = within(name, prefix)?.split('.').next()?;
        number.parse::<usize>().ok()
    });
    numbers.max().map_or(0, |last| last.saturating_add(1))
}
