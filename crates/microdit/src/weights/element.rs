//! The number types tensors are stored in, and their values as f32.

#![deny(clippy::arithmetic_side_effects)]

use burn::tensor::{DType, bf16, f16};

/// A number type that is read as f32, which holds all of its values or, of wider types, those that occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Element {
    F64,
    F32,
    F16,
    Bf16,
    F8E4M3,
    F8E5M2,
    F8E4M3Fnuz,
    F8E5M2Fnuz,
    F8E8M0,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

/// Types, their names in safetensors, in PyTorch, and of PyTorch's storages.
const NAMES: [(Element, &str, &str, &str); 18] = [
    (Element::F64, "F64", "float64", "DoubleStorage"),
    (Element::F32, "F32", "float32", "FloatStorage"),
    (Element::F16, "F16", "float16", "HalfStorage"),
    (Element::Bf16, "BF16", "bfloat16", "BFloat16Storage"),
    (Element::F8E4M3, "F8_E4M3", "float8_e4m3fn", ""),
    (Element::F8E5M2, "F8_E5M2", "float8_e5m2", ""),
    (Element::F8E4M3Fnuz, "F8_E4M3FNUZ", "float8_e4m3fnuz", ""),
    (Element::F8E5M2Fnuz, "F8_E5M2FNUZ", "float8_e5m2fnuz", ""),
    (Element::F8E8M0, "F8_E8M0", "float8_e8m0fnu", ""),
    (Element::I64, "I64", "int64", "LongStorage"),
    (Element::I32, "I32", "int32", "IntStorage"),
    (Element::I16, "I16", "int16", "ShortStorage"),
    (Element::I8, "I8", "int8", "CharStorage"),
    (Element::U64, "U64", "uint64", ""),
    (Element::U32, "U32", "uint32", ""),
    (Element::U16, "U16", "uint16", ""),
    (Element::U8, "U8", "uint8", "ByteStorage"),
    (Element::Bool, "BOOL", "bool", "BoolStorage"),
];

impl Element {
    /// By its name in a safetensors file.
    pub(super) fn of_safetensors(name: &str) -> Option<Self> {
        let known = NAMES.iter().find(|(_, stored, ..)| *stored == name);
        known.map(|(element, ..)| *element)
    }

    /// By its name in PyTorch, without `torch.`.
    pub(super) fn of_torch(name: &str) -> Option<Self> {
        let known = NAMES.iter().find(|(_, _, torch, _)| *torch == name);
        known.map(|(element, ..)| *element)
    }

    /// By the name of PyTorch's class of storages, without `torch.`.
    pub(super) fn of_storage(class: &str) -> Option<Self> {
        let known = NAMES.iter().find(|(.., storage)| *storage == class);
        known.map(|(element, ..)| *element)
    }

    /// Bytes of a number of a type that is not read, by the class of its storages with its module; none for what PyTorch has not.
    pub(super) fn size_of_unread(class: &str) -> Option<usize> {
        match class.rsplit('.').next()? {
            "QInt8Storage" | "QUInt8Storage" | "QUInt4x2Storage" | "QUInt2x4Storage" => Some(1),
            "QInt32Storage" => Some(4),
            "ComplexFloatStorage" => Some(8),
            "ComplexDoubleStorage" => Some(16),
            _ => None,
        }
    }

    /// Bytes of a number.
    pub(super) fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 | Self::U16 => 2,
            _ => 1,
        }
    }

    /// Whether weights are kept in it; whole numbers are counters and positions.
    pub(super) fn is_float(self) -> bool {
        matches!(
            self,
            Self::F64
                | Self::F32
                | Self::F16
                | Self::Bf16
                | Self::F8E4M3
                | Self::F8E5M2
                | Self::F8E4M3Fnuz
                | Self::F8E5M2Fnuz
                | Self::F8E8M0
        )
    }

    /// burn's name of a type of whole numbers.
    pub(super) fn whole(self) -> Option<DType> {
        Some(match self {
            Self::I64 => DType::I64,
            Self::I32 => DType::I32,
            Self::I16 => DType::I16,
            Self::I8 => DType::I8,
            Self::U64 => DType::U64,
            Self::U32 => DType::U32,
            Self::U16 => DType::U16,
            Self::U8 => DType::U8,
            _ => return None,
        })
    }

    /// Appends the numbers in `bytes` to `values`; f64 is rounded.
    ///
    /// # Errors
    /// A number beyond the range of f32, or a whole one it does not hold exactly.
    pub(super) fn append(self, bytes: &[u8], values: &mut Vec<f32>) -> Result<(), String> {
        match self {
            Self::F32 => {
                plain(bytes, values, f32::from_le_bytes);
                Ok(())
            }
            Self::F16 => {
                plain(bytes, values, |pair| f16::from_le_bytes(pair).to_f32());
                Ok(())
            }
            Self::Bf16 => {
                plain(bytes, values, |pair| bf16::from_le_bytes(pair).to_f32());
                Ok(())
            }
            Self::F8E4M3 | Self::F8E5M2 | Self::F8E4M3Fnuz | Self::F8E5M2Fnuz | Self::F8E8M0 => {
                let table: Vec<f32> = (0..=u8::MAX).map(|byte| self.eight_bits(byte)).collect();
                plain(bytes, values, |[byte]| table[usize::from(byte)]);
                Ok(())
            }
            Self::F64 => {
                let (numbers, _) = bytes.as_chunks::<8>();
                for number in numbers {
                    let number = f64::from_le_bytes(*number);
                    let value = number as f32;
                    if number.is_finite() && !value.is_finite() {
                        return Err(format!(
                            "value {} is {number:e}, beyond the range of f32",
                            values.len()
                        ));
                    }
                    values.push(value);
                }
                Ok(())
            }
            Self::I64 => whole(bytes, values, |b| i64::from_le_bytes(b).into()),
            Self::I32 => whole(bytes, values, |b| i32::from_le_bytes(b).into()),
            Self::I16 => whole(bytes, values, |b| i16::from_le_bytes(b).into()),
            Self::I8 => whole(bytes, values, |b| i8::from_le_bytes(b).into()),
            Self::U64 => whole(bytes, values, |b| u64::from_le_bytes(b).into()),
            Self::U32 => whole(bytes, values, |b| u32::from_le_bytes(b).into()),
            Self::U16 => whole(bytes, values, |b| u16::from_le_bytes(b).into()),
            Self::U8 => whole(bytes, values, |[byte]: [u8; 1]| byte.into()),
            Self::Bool => whole(bytes, values, |[byte]: [u8; 1]| i128::from(byte != 0)),
        }
    }

    /// An 8-bit float (arXiv 2209.05433; `fnuz`: arXiv 2206.02915; `e8m0`: a power of two, of the MX formats).
    fn eight_bits(self, byte: u8) -> f32 {
        let (fraction_bits, bias) = match self {
            Self::F8E4M3 => (3, 7),
            Self::F8E4M3Fnuz => (3, 8),
            Self::F8E5M2 => (2, 15),
            Self::F8E5M2Fnuz => (2, 16),
            _ => {
                return match byte {
                    u8::MAX => f32::NAN,
                    _ => 2f32.powi(i32::from(byte).wrapping_sub(127)),
                };
            }
        };
        let unsigned = byte & 0x7f;
        match self {
            Self::F8E4M3 if unsigned == 0x7f => return f32::NAN,
            Self::F8E5M2 if unsigned > 0x7c => return f32::NAN,
            Self::F8E5M2 if byte == 0x7c => return f32::INFINITY,
            Self::F8E5M2 if byte == 0xfc => return f32::NEG_INFINITY,
            Self::F8E4M3Fnuz | Self::F8E5M2Fnuz if byte == 0x80 => return f32::NAN,
            _ => {}
        }
        let one = 1u8.wrapping_shl(fraction_bits);
        let exponent = i32::from(unsigned.wrapping_shr(fraction_bits));
        let fraction = unsigned & one.wrapping_sub(1);
        let fraction = if exponent == 0 {
            fraction
        } else {
            fraction | one
        };
        // Subnormal numbers have the exponent of the smallest normal ones.
        let scale = exponent
            .max(1)
            .wrapping_sub(bias)
            .wrapping_sub(fraction_bits as i32);
        let value = f32::from(fraction) * 2f32.powi(scale);
        if byte == unsigned { value } else { -value }
    }
}

fn plain<const N: usize>(bytes: &[u8], values: &mut Vec<f32>, value: impl Fn([u8; N]) -> f32) {
    let (numbers, _) = bytes.as_chunks::<N>();
    values.extend(numbers.iter().map(|number| value(*number)));
}

fn whole<const N: usize>(
    bytes: &[u8],
    values: &mut Vec<f32>,
    value: impl Fn([u8; N]) -> i128,
) -> Result<(), String> {
    let (numbers, _) = bytes.as_chunks::<N>();
    for number in numbers {
        let number = value(*number);
        let float = number as f32;
        if float as i128 != number {
            return Err(format!(
                "value {} is {number}, a whole number f32 does not hold exactly",
                values.len()
            ));
        }
        values.push(float);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(element: Element, bytes: &[u8]) -> Result<Vec<f32>, String> {
        let mut values = Vec::new();
        element.append(bytes, &mut values)?;
        Ok(values)
    }

    #[test]
    fn every_type_has_a_size_and_two_names() {
        for (element, stored, torch, _) in NAMES {
            assert_eq!(Element::of_safetensors(stored), Some(element));
            assert_eq!(Element::of_torch(torch), Some(element));
            assert_eq!(
                floats(element, &[0; 16]).unwrap().len(),
                16 / element.size()
            );
        }
        for foreign in ["C64", "F4", "", "f32"] {
            assert_eq!(Element::of_safetensors(foreign), None);
        }
    }

    /// The tables of the formats' papers: largest and smallest numbers, and NaN.
    #[test]
    fn eight_bit_floats_are_those_of_their_papers() {
        let numbers = [
            (
                Element::F8E4M3,
                [0x7e, 0x08, 0x01, 0xb8],
                [448.0, 2f32.powi(-6), 2f32.powi(-9), -1.0],
            ),
            (
                Element::F8E5M2,
                [0x7b, 0x04, 0x01, 0xbc],
                [57344.0, 2f32.powi(-14), 2f32.powi(-16), -1.0],
            ),
            (
                Element::F8E4M3Fnuz,
                [0x7f, 0x08, 0x01, 0xc0],
                [240.0, 2f32.powi(-7), 2f32.powi(-10), -1.0],
            ),
            (
                Element::F8E5M2Fnuz,
                [0x7f, 0x04, 0x01, 0xc0],
                [57344.0, 2f32.powi(-15), 2f32.powi(-17), -1.0],
            ),
            (
                Element::F8E8M0,
                [0xfe, 0x7f, 0x80, 0x7e],
                [2f32.powi(127), 1.0, 2.0, 0.5],
            ),
        ];
        for (element, bytes, values) in numbers {
            assert_eq!(floats(element, &bytes).unwrap(), values, "{element:?}");
        }
        for (element, byte) in [
            (Element::F8E4M3, 0x7f),
            (Element::F8E4M3, 0xff),
            (Element::F8E5M2, 0x7d),
            (Element::F8E4M3Fnuz, 0x80),
            (Element::F8E5M2Fnuz, 0x80),
            (Element::F8E8M0, 0xff),
        ] {
            assert!(floats(element, &[byte]).unwrap()[0].is_nan(), "{element:?}");
        }
        let infinite = floats(Element::F8E5M2, &[0x7c, 0xfc]).unwrap();
        assert_eq!(infinite, [f32::INFINITY, f32::NEG_INFINITY]);
    }

    #[test]
    fn what_f32_does_not_hold_is_an_error_with_its_place() {
        let beyond = [1e38f64.to_le_bytes(), 1e39f64.to_le_bytes()].concat();
        let error = floats(Element::F64, &beyond).unwrap_err();
        assert!(error.contains("value 1 is 1e39"), "{error}");
        for exact in [0, -1, 1 << 24, (1 << 24) + 2, i64::MIN] {
            assert_eq!(
                floats(Element::I64, &i64::to_le_bytes(exact)).unwrap(),
                [exact as f32]
            );
        }
        for inexact in [(1i64 << 24) + 1, i64::MAX] {
            let error = floats(Element::I64, &inexact.to_le_bytes()).unwrap_err();
            assert!(error.contains(&inexact.to_string()), "{error}");
        }
        assert_eq!(floats(Element::Bool, &[0, 1]).unwrap(), [0.0, 1.0]);
    }
}
