//! All numbers a type can hold, found by the type itself: serde asks for every field of every struct and every variant of
//! every enum, and is given something.

use serde::{
    Deserialize,
    de::{
        self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
        VariantAccess, Visitor, value::Error,
    },
    forward_to_deserialize_any,
};
use std::collections::BTreeSet;

/// Paths of the numbers in a value of `T`: names of fields and variants, and `*` for any entry of a list.
pub(super) fn numbers<T: for<'a> Deserialize<'a>>(root: &str) -> BTreeSet<String> {
    let mut walk = Walk::default();
    // One variant of an enum is visited at a time; each of the others is visited in a pass of its own.
    let mut wanted = vec![None];
    while let Some(next) = wanted.pop() {
        walk.wanted = next;
        let probe = Probe {
            path: root.to_owned(),
            walk: &mut walk,
        };
        T::deserialize(probe).expect("every type of a recipe can be made up");
        wanted.extend(walk.waiting.drain(..).map(Some));
    }
    walk.numbers
}

#[derive(Default)]
struct Walk {
    numbers: BTreeSet<String>,
    /// The enum and the number of the variant this pass is for.
    wanted: Option<(String, String, usize)>,
    /// Those of later passes.
    waiting: Vec<(String, String, usize)>,
    /// Enums that were visited.
    met: BTreeSet<String>,
}

/// Gives whatever is asked for.
struct Probe<'a> {
    path: String,
    walk: &'a mut Walk,
}

impl Probe<'_> {
    fn below(&mut self, name: &str) -> Probe<'_> {
        Probe {
            path: format!("{}.{name}", self.path),
            walk: self.walk,
        }
    }
}

macro_rules! number {
    ($($method:ident: $visit:ident;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.walk.numbers.insert(self.path);
            visitor.$visit(1 as _)
        })*
    };
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Error;

    number! {
        deserialize_u8: visit_u8; deserialize_u16: visit_u16; deserialize_u32: visit_u32; deserialize_u64: visit_u64;
        deserialize_i8: visit_i8; deserialize_i16: visit_i16; deserialize_i32: visit_i32; deserialize_i64: visit_i64;
        deserialize_f32: visit_f32; deserialize_f64: visit_f64;
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(true)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str("text")
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str("text")
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Entries {
            left: 1,
            probe: self,
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        left: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_seq(Entries { left, probe: self })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_map(Fields {
            fields: fields.iter(),
            at: "",
            probe: self,
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if self.walk.met.insert(self.path.clone()) {
            let others =
                (1..variants.len()).map(|i| (self.path.clone(), variants[i].to_owned(), i));
            self.walk.waiting.extend(others);
        }
        let chosen = self.walk.wanted.as_ref().and_then(|(path, name, i)| {
            // The enum itself, or one on the way to it.
            let inside = || {
                let rest = path.strip_prefix(&self.path)?.strip_prefix('.')?;
                variants
                    .iter()
                    .position(|variant| rest.split('.').next() == Some(variant))
            };
            match *path == self.path {
                true => Some(*i).filter(|i| variants[*i] == name),
                false => inside(),
            }
        });
        visitor.visit_enum(Variant {
            name: variants[chosen.unwrap_or(0)],
            probe: self,
        })
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        let message = format!("{}: teach the probe this shape", self.path);
        Err(de::Error::custom(message))
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple_struct map identifier ignored_any
    }
}

struct Entries<'a> {
    left: usize,
    probe: Probe<'a>,
}

impl<'de> SeqAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(self.probe.below("*")).map(Some)
    }
}

struct Fields<'a> {
    fields: std::slice::Iter<'static, &'static str>,
    at: &'static str,
    probe: Probe<'a>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some(field) = self.fields.next() else {
            return Ok(None);
        };
        self.at = field;
        seed.deserialize((*field).into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(self.probe.below(self.at))
    }
}

struct Variant<'a> {
    name: &'static str,
    probe: Probe<'a>,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Error;
    type Variant = Probe<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self::Variant), Error> {
        let value = seed.deserialize(self.name.into_deserializer())?;
        let Probe { path, walk } = self.probe;
        let path = format!("{path}.{}", self.name);
        Ok((value, Probe { path, walk }))
    }
}

impl<'de> VariantAccess<'de> for Probe<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_tuple(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_struct("", fields, visitor)
    }
}

#[test]
fn a_type_tells_all_its_numbers() {
    #[derive(Deserialize)]
    #[allow(dead_code)]
    enum Inner {
        Nothing,
        One(f64),
        Two { a: Vec<u32>, b: Option<Deeper> },
    }
    #[derive(Deserialize)]
    #[allow(dead_code)]
    enum Deeper {
        Text(String),
        Number(i64),
    }
    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Outer {
        first: u64,
        #[serde(default)]
        list: Vec<(f32, bool)>,
        inner: Inner,
    }
    let found: Vec<String> = numbers::<Outer>("x").into_iter().collect();
    let expected = [
        "x.first",
        "x.inner.One",
        "x.inner.Two.a.*",
        "x.inner.Two.b.Number",
        "x.list.*.*",
    ];
    assert_eq!(found, expected);
}
