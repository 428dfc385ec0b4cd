//! The keys of a type, as serde asks for them: a list of them beside the type would be a second one to keep.

use serde::{
    Deserialize,
    de::{Deserializer, Visitor, value::Error},
    forward_to_deserialize_any,
};

/// The fields of `T`; none if it is not a struct.
pub(super) fn of<T: for<'a> Deserialize<'a>>() -> &'static [&'static str] {
    let mut fields: &[&str] = &[];
    // The type is given nothing, and refuses that.
    let _ = T::deserialize(Asked(&mut fields));
    fields
}

/// Records which fields it is asked for.
struct Asked<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Asked<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Recipe,
        recipe::{RunConfig, Stage},
    };
    use std::path::Path;

    #[test]
    fn the_keys_of_run_and_stage_are_those_that_are_written() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/quickstart.ron");
        let recipe = Recipe::load(&path, &[]).unwrap();
        let written = |value: serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let sorted = |keys: &[&str]| {
            let mut keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            keys.sort();
            keys
        };
        let run = written(serde_json::to_value(&recipe.run).unwrap());
        assert_eq!(
            sorted(of::<RunConfig>()),
            sorted(&run.iter().map(String::as_str).collect::<Vec<_>>())
        );
        let stage = written(serde_json::to_value(&recipe.stages[0]).unwrap());
        assert_eq!(
            sorted(of::<Stage>()),
            sorted(&stage.iter().map(String::as_str).collect::<Vec<_>>())
        );
        assert!(of::<RunConfig>().iter().all(|key| {
            !of::<Stage>()
                .iter()
                .any(|other| other == key && *key != "name")
        }));
        assert!(of::<u64>().is_empty());
    }
}
