//! Libraries that wrap a network put the wrapper's name before the parameters' names, or inside them.

/// Segments that no network itself has in its names: of torch.compile, DeepSpeed, FSDP and activation checkpointing.
const ANYWHERE: [&str; 4] = [
    "_orig_mod",
    "_forward_module",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
];

/// Names of the attribute a wrapper or a training program keeps the network in. They are taken off where every name begins
/// with them: any of these may also be a layer.
const IN_FRONT: [&str; 5] = ["module", "model", "dit", "net", "network"];

/// Most nested wrappers that are taken off; a name may be made of nothing else.
const MOST_IN_FRONT: usize = 8;

/// A name without the wrappers that may stand anywhere.
pub(super) fn bare(name: &str) -> String {
    let kept = name.split('.').filter(|part| !ANYWHERE.contains(part));
    kept.collect::<Vec<_>>().join(".")
}

/// Names without wrappers, in their order, and what was taken off.
pub(super) fn unwrap<'a>(names: impl Iterator<Item = &'a str>) -> (Vec<String>, Vec<String>) {
    let mut found: Vec<String> = Vec::new();
    let mut names: Vec<String> = names
        .inspect(|name| {
            let parts = name.split('.');
            for part in parts.filter(|part| ANYWHERE.contains(part)) {
                if !found.iter().any(|known| known == part) {
                    found.push(part.to_owned());
                }
            }
        })
        .map(bare)
        .collect();
    for _ in 0..MOST_IN_FRONT {
        let Some(prefix) = shared(&names) else { break };
        for name in &mut names {
            name.drain(..=prefix.len());
        }
        found.push(prefix.to_owned());
    }
    (names, found)
}

/// The wrapper every name begins with.
fn shared(names: &[String]) -> Option<&'static str> {
    let first = names.first()?.split('.').next()?;
    let prefix = IN_FRONT.into_iter().find(|prefix| *prefix == first)?;
    let under = |name: &String| {
        let rest = name.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.len() > 1 && rest.starts_with('.'))
    };
    names.iter().all(under).then_some(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_are_taken_off_in_any_order_and_layers_are_kept() {
        for (names, expected, found) in [
            (vec!["a.weight", "b"], vec!["a.weight", "b"], vec![]),
            (
                vec!["_orig_mod.a.w", "_orig_mod.b"],
                vec!["a.w", "b"],
                vec!["_orig_mod"],
            ),
            (
                vec!["module._orig_mod.dit.a", "module._orig_mod.dit.b"],
                vec!["a", "b"],
                vec!["_orig_mod", "module", "dit"],
            ),
            (
                vec!["_forward_module.module.a", "_forward_module.module.b"],
                vec!["a", "b"],
                vec!["_forward_module", "module"],
            ),
            // torch.compile of each block.
            (
                vec!["blocks.0._orig_mod.w", "last.w"],
                vec!["blocks.0.w", "last.w"],
                vec!["_orig_mod"],
            ),
            // A layer of that name, a name that only begins like it, and nothing behind it.
            (vec!["net.0", "last"], vec!["net.0", "last"], vec![]),
            (vec!["model_a.w"], vec!["model_a.w"], vec![]),
            (vec!["module"], vec!["module"], vec![]),
            (vec!["module."], vec!["module."], vec![]),
        ] {
            let (unwrapped, taken) = unwrap(names.iter().copied());
            assert_eq!(unwrapped, expected, "{names:?}");
            assert_eq!(taken, found, "{names:?}");
        }
    }
}
