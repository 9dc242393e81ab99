//! The header's JSON, read in one pass under limits.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{GateError, Limits, Stored};

/// Reads the JSON of a header. Ranges are not yet checked.
pub(super) fn read(json: &[u8], limits: &Limits) -> Result<Raws, GateError> {
    if json.first() != Some(&b'{') {
        return Err(GateError::Malformed { at: 0, reason: "expected `{`".into() });
    }
    let mut reading = Reading { limits, tensors: BTreeMap::new(), metadata: None, refusal: None };
    let mut parser = serde_json::Deserializer::from_slice(json);
    let parsed = Object(&mut reading).deserialize(&mut parser).and_then(|()| parser.end());
    match (parsed, reading.refusal) {
        (Ok(()), _) => Ok(Raws { tensors: reading.tensors, metadata: reading.metadata.unwrap_or_default() }),
        (Err(_), Some(refusal)) => Err(refusal),
        (Err(e), None) => Err(GateError::Malformed { at: e.column(), reason: e.to_string() }),
    }
}

/// What a header says.
pub(super) struct Raws {
    pub(super) tensors: BTreeMap<String, Raw>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// One entry, as it stands there.
pub(super) struct Raw {
    pub(super) dtype: Stored,
    pub(super) shape: Vec<usize>,
    pub(super) offsets: (u64, u64),
}

impl Raw {
    pub(super) fn wrong_size(&self, name: &str) -> GateError {
        GateError::Size {
            name: name.to_owned(),
            shape: self.shape.clone(),
            dtype: self.dtype.to_string(),
            from: self.offsets.0,
            to: self.offsets.1,
        }
    }
}

/// The parse in progress. `refusal` carries a typed error past serde, whose own are text.
struct Reading<'a> {
    limits: &'a Limits,
    tensors: BTreeMap<String, Raw>,
    metadata: Option<BTreeMap<String, String>>,
    refusal: Option<GateError>,
}

impl Reading<'_> {
    fn refuse<E: serde::de::Error>(&mut self, error: GateError) -> E {
        self.refusal = Some(error);
        E::custom("refused")
    }
}

/// The header itself.
struct Object<'a, 'l>(&'a mut Reading<'l>);

impl<'de> DeserializeSeed<'de> for Object<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self(reading) = self;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                if reading.limits.metadata_entries == 0 {
                    return Err(reading.refuse(GateError::Metadata));
                }
                if reading.metadata.is_some() {
                    return Err(reading.refuse(GateError::Duplicate { name }));
                }
                map.next_value_seed(Metadata(reading))?;
                continue;
            }
            let limits = reading.limits;
            if name.is_empty() || name.len() > limits.name_bytes {
                let found = name.len();
                return Err(reading.refuse(GateError::NameLength { found, limit: limits.name_bytes }));
            }
            if reading.tensors.contains_key(&name) {
                return Err(reading.refuse(GateError::Duplicate { name }));
            }
            if reading.tensors.len() == limits.tensors {
                return Err(reading.refuse(GateError::TooManyTensors { limit: limits.tensors }));
            }
            let raw = map.next_value_seed(Tensor { reading, name: &name })?;
            reading.tensors.insert(name, raw);
        }
        Ok(())
    }
}

struct Metadata<'a, 'l>(&'a mut Reading<'l>);

impl<'de> DeserializeSeed<'de> for Metadata<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Metadata<'_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self(reading) = self;
        let (entries, limit) = (reading.limits.metadata_entries, reading.limits.metadata_bytes);
        let mut metadata = BTreeMap::new();
        let mut bytes = 0;
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            bytes += key.len() + value.len();
            if metadata.len() == entries || bytes > limit {
                return Err(reading.refuse(GateError::MetadataTooLong { entries, bytes: limit }));
            }
            if metadata.contains_key(&key) {
                return Err(reading.refuse(GateError::Duplicate { name: format!("__metadata__.{key}") }));
            }
            metadata.insert(key, value);
        }
        reading.metadata = Some(metadata);
        Ok(())
    }
}

/// One tensor's entry.
struct Tensor<'a, 'l, 'n> {
    reading: &'a mut Reading<'l>,
    name: &'n str,
}

impl<'de> DeserializeSeed<'de> for Tensor<'_, '_, '_> {
    type Value = Raw;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Raw, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Tensor<'_, '_, '_> {
    type Value = Raw;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with dtype, shape and data_offsets")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let Self { reading, name } = self;
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            let repeated = match key.as_str() {
                "dtype" => dtype.replace(map.next_value::<String>()?).is_some(),
                "shape" => {
                    let dims = map.next_value_seed(Dims(reading.limits.rank))?;
                    shape.replace(dims).is_some()
                }
                "data_offsets" => offsets.replace(map.next_value::<(u64, u64)>()?).is_some(),
                _ => return Err(A::Error::unknown_field(&key, &["dtype", "shape", "data_offsets"])),
            };
            if repeated {
                return Err(reading.refuse(GateError::Duplicate { name: format!("{name}.{key}") }));
            }
        }
        let dtype = dtype.ok_or_else(|| A::Error::missing_field("dtype"))?;
        let shape = shape.ok_or_else(|| A::Error::missing_field("shape"))?;
        let offsets = offsets.ok_or_else(|| A::Error::missing_field("data_offsets"))?;
        let limits = reading.limits;
        let name = name.to_owned();
        if shape.len() > limits.rank || (shape.is_empty() && !limits.scalars) {
            let (rank, limit, scalars) = (shape.len(), limits.rank, limits.scalars);
            return Err(reading.refuse(GateError::Rank { name, rank, limit, scalars }));
        }
        if shape.contains(&0) {
            return Err(reading.refuse(GateError::ZeroDim { name, shape }));
        }
        match Stored::parse(&dtype) {
            Some(dtype) if limits.other_types || matches!(dtype, Stored::Weight(_)) => {
                Ok(Raw { dtype, shape, offsets })
            }
            known => {
                let accepted = match known {
                    Some(_) => "F32, BF16, F16",
                    None => {
                        "F32, BF16, F16 (weights), BOOL, U8, I8, F8_E4M3, F8_E5M2, I16, U16, I32, U32, F64, I64, U64"
                    }
                };
                let mut found = dtype;
                found.truncate(found.char_indices().nth(32).map_or(found.len(), |(at, _)| at));
                Err(reading.refuse(GateError::DType { name, found, accepted }))
            }
        }
    }
}

/// A shape of which no more is kept than one dimension beyond the limit.
struct Dims(usize);

impl<'de> DeserializeSeed<'de> for Dims {
    type Value = Vec<usize>;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Vec<usize>, D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Dims {
    type Value = Vec<usize>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of dimensions")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<usize>, A::Error> {
        let mut dims = Vec::new();
        while dims.len() <= self.0 {
            match seq.next_element()? {
                Some(n) => dims.push(n),
                None => return Ok(dims),
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(dims)
    }
}
