//! cuDNN's descriptors: what its graph interface is spoken in.

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;

use super::library::Library;
use crate::error::Error;

/// A kind of descriptor: `cudnnBackendDescriptorType_t`.
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub(super) enum Kind {
    Pointwise = 0,
    Convolution = 1,
    Engine = 2,
    EngineConfig = 3,
    Heuristics = 4,
    Plan = 5,
    KnobChoice = 7,
    Forward = 10,
    WeightGradient = 11,
    InputGradient = 12,
    PointwiseOperation = 13,
    Graph = 15,
    VariantPack = 16,
    Tensor = 17,
    #[cfg(test)]
    DeviceProperties = 38,
}

/// A type of values that attributes have.
pub(super) trait Value: Copy {
    /// Its `cudnnBackendAttributeType_t`.
    const TYPE: c_int;
    /// What stands in a place that cuDNN is to fill.
    const EMPTY: Self;
}

/// Types that attributes have: the Rust type, cuDNN's number of it, and an empty value.
macro_rules! values {
    ($($type:ty: $number:literal, $empty:expr;)*) => {
        $(impl Value for $type {
            const TYPE: c_int = $number;
            const EMPTY: Self = $empty;
        })*
    };
}

/// Defines cuDNN's enumerations as the numbers that they are.
macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident: $number:literal;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            #[repr(transparent)]
            pub(super) struct $name(pub(super) c_int);

            impl Value for $name {
                const TYPE: c_int = $number;
                const EMPTY: Self = Self(-1);
            }
        )*
    };
}

numbers! {
    /// `cudnnDataType_t`.
    DataType: 1;
    /// `cudnnConvolutionMode_t`.
    ConvolutionMode: 7;
    /// `cudnnBackendHeurMode_t`.
    HeuristicMode: 8;
    /// `cudnnBackendKnobType_t`.
    KnobKind: 9;
    /// `cudnnBackendNumericalNote_t`.
    Note: 11;
    /// `cudnnPointwiseMode_t`.
    PointwiseMode: 14;
    /// `cudnnBackendBehaviorNote_t`.
    BehaviourNote: 19;
}

values! {
    bool: 2, false;
    i64: 3, 0;
    f32: 4, 0.0;
    Address: 6, Address(0);
}

/// An address on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Address(pub(super) u64);

/// A handle, as an attribute.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct RawHandle(pub(super) *mut c_void);

impl Value for RawHandle {
    const TYPE: c_int = 0;
    const EMPTY: Self = Self(std::ptr::null_mut());
}

/// A descriptor, as an attribute.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Raw(*mut c_void);

impl Value for Raw {
    const TYPE: c_int = 15;
    const EMPTY: Self = Self(std::ptr::null_mut());
}

/// An attribute with values of a type: `cudnnBackendAttributeName_t`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attribute<V> {
    number: c_int,
    values: PhantomData<V>,
}

impl<V> Attribute<V> {
    /// The attribute of this number, whose values are of this type.
    pub(super) const fn new(number: c_int) -> Self {
        Self { number, values: PhantomData }
    }
}

/// Stands for descriptors where an attribute's type is named.
#[derive(Clone, Copy, Debug)]
pub(super) struct OfDescriptors;

/// Defines attributes.
macro_rules! attributes {
    ($($name:ident: $type:ty = $number:literal;)*) => {
        /// The attributes that are used, by cuDNN's names.
        pub(super) mod attribute {
            use super::*;
            $(pub(in crate::cudnn) const $name: Attribute<$type> = Attribute::new($number);)*
        }
    };
}

attributes! {
    POINTWISE_MODE: PointwiseMode = 0;
    POINTWISE_MATH_PREC: DataType = 1;
    CONVOLUTION_COMP_TYPE: DataType = 100;
    CONVOLUTION_CONV_MODE: ConvolutionMode = 101;
    CONVOLUTION_DILATIONS: i64 = 102;
    CONVOLUTION_FILTER_STRIDES: i64 = 103;
    CONVOLUTION_POST_PADDINGS: i64 = 104;
    CONVOLUTION_PRE_PADDINGS: i64 = 105;
    CONVOLUTION_SPATIAL_DIMS: i64 = 106;
    ENGINEHEUR_MODE: HeuristicMode = 200;
    ENGINEHEUR_OPERATION_GRAPH: OfDescriptors = 201;
    ENGINEHEUR_RESULTS: OfDescriptors = 202;
    ENGINECFG_ENGINE: OfDescriptors = 300;
    ENGINECFG_KNOB_CHOICES: OfDescriptors = 302;
    EXECUTION_PLAN_HANDLE: RawHandle = 400;
    EXECUTION_PLAN_ENGINE_CONFIG: OfDescriptors = 401;
    EXECUTION_PLAN_WORKSPACE_SIZE: i64 = 402;
    KNOB_CHOICE_KNOB_TYPE: KnobKind = 600;
    KNOB_CHOICE_KNOB_VALUE: i64 = 601;
    FORWARD_ALPHA: f32 = 700;
    FORWARD_BETA: f32 = 701;
    FORWARD_CONV_DESC: OfDescriptors = 702;
    FORWARD_W: OfDescriptors = 703;
    FORWARD_X: OfDescriptors = 704;
    FORWARD_Y: OfDescriptors = 705;
    BWD_DATA_ALPHA: f32 = 706;
    BWD_DATA_BETA: f32 = 707;
    BWD_DATA_CONV_DESC: OfDescriptors = 708;
    BWD_DATA_W: OfDescriptors = 709;
    BWD_DATA_DX: OfDescriptors = 710;
    BWD_DATA_DY: OfDescriptors = 711;
    BWD_FILTER_ALPHA: f32 = 712;
    BWD_FILTER_BETA: f32 = 713;
    BWD_FILTER_CONV_DESC: OfDescriptors = 714;
    BWD_FILTER_DW: OfDescriptors = 715;
    BWD_FILTER_X: OfDescriptors = 716;
    BWD_FILTER_DY: OfDescriptors = 717;
    POINTWISE_PW_DESCRIPTOR: OfDescriptors = 750;
    POINTWISE_XDESC: OfDescriptors = 751;
    POINTWISE_BDESC: OfDescriptors = 752;
    POINTWISE_YDESC: OfDescriptors = 753;
    OPERATIONGRAPH_HANDLE: RawHandle = 800;
    OPERATIONGRAPH_OPS: OfDescriptors = 801;
    TENSOR_BYTE_ALIGNMENT: i64 = 900;
    TENSOR_DATA_TYPE: DataType = 901;
    TENSOR_DIMENSIONS: i64 = 902;
    TENSOR_STRIDES: i64 = 903;
    TENSOR_UNIQUE_ID: i64 = 906;
    TENSOR_IS_VIRTUAL: bool = 907;
    VARIANT_PACK_UNIQUE_IDS: i64 = 1000;
    VARIANT_PACK_DATA_POINTERS: Address = 1001;
    VARIANT_PACK_WORKSPACE: Address = 1003;
    ENGINE_OPERATION_GRAPH: OfDescriptors = 1300;
    ENGINE_GLOBAL_INDEX: i64 = 1301;
    ENGINE_NUMERICAL_NOTE: Note = 1303;
    ENGINE_BEHAVIOUR_NOTE: BehaviourNote = 1305;
}

/// A descriptor, destroyed when it is dropped. Those that it is made of are to live as long.
pub(super) struct Descriptor {
    api: &'static Library,
    kind: Kind,
    raw: *mut c_void,
}

// SAFETY: a descriptor may be used from any thread by one at a time, and it is not `Sync`.
unsafe impl Send for Descriptor {}

impl Descriptor {
    /// An open descriptor.
    pub(super) fn new(api: &'static Library, kind: Kind) -> Result<Self, Error> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the call writes one pointer, which `raw` is.
        let status = unsafe { (api.functions().cudnnBackendCreateDescriptor)(kind as c_int, &raw mut raw) };
        api.check(&format!("creating a descriptor ({kind:?})"), status)?;
        Ok(Self { api, kind, raw })
    }

    /// The same with `values` of `attribute`.
    pub(super) fn with<V: Value>(self, attribute: Attribute<V>, values: &[V]) -> Result<Self, Error> {
        self.set(attribute.number, values)?;
        Ok(self)
    }

    /// The same with descriptors as `attribute`.
    pub(super) fn with_descriptors(
        self,
        attribute: Attribute<OfDescriptors>,
        descriptors: &[&Self],
    ) -> Result<Self, Error> {
        let raw: Vec<Raw> = descriptors.iter().map(|descriptor| Raw(descriptor.raw)).collect();
        self.set(attribute.number, &raw)?;
        Ok(self)
    }

    /// The same, closed: its attributes can be asked for, and it can be made use of.
    pub(super) fn finalised(self) -> Result<Self, Error> {
        // SAFETY: the descriptor is alive.
        let status = unsafe { (self.api.functions().cudnnBackendFinalize)(self.raw) };
        self.api.check(&format!("finalising a descriptor ({:?})", self.kind), status)?;
        Ok(self)
    }

    /// At most `most` values of `attribute`.
    pub(super) fn get<V: Value>(&self, attribute: Attribute<V>, most: usize) -> Result<Vec<V>, Error> {
        let mut values = vec![V::EMPTY; most];
        let count = self.ask(attribute.number, &mut values)?;
        values.truncate(count);
        Ok(values)
    }

    /// The one value of `attribute`.
    pub(super) fn get_one<V: Value>(&self, attribute: Attribute<V>) -> Result<V, Error> {
        let found = self.get(attribute, 1)?.first().copied();
        found.ok_or_else(|| Error::Cudnn {
            action: format!("asking a descriptor ({:?})", self.kind),
            message: format!("it has no value of attribute {}", attribute.number),
        })
    }

    /// At most `most` descriptors of `kind` that `attribute` has.
    pub(super) fn get_descriptors(
        &self,
        attribute: Attribute<OfDescriptors>,
        kind: Kind,
        most: usize,
    ) -> Result<Vec<Self>, Error> {
        // cuDNN fills descriptors that it is given.
        let mut found = (0..most).map(|_| Self::new(self.api, kind)).collect::<Result<Vec<_>, _>>()?;
        let mut raw: Vec<Raw> = found.iter().map(|descriptor| Raw(descriptor.raw)).collect();
        let count = self.ask(attribute.number, &mut raw)?;
        found.truncate(count);
        Ok(found)
    }

    /// How many values there are of `attribute`.
    pub(super) fn count(&self, attribute: Attribute<OfDescriptors>) -> Result<usize, Error> {
        let mut count = 0;
        // SAFETY: the descriptor is alive; without room for values, their number alone is written.
        let status = unsafe {
            (self.api.functions().cudnnBackendGetAttribute)(
                self.raw,
                attribute.number,
                Raw::TYPE,
                0,
                &raw mut count,
                std::ptr::null_mut(),
            )
        };
        self.api.check(&format!("asking a descriptor ({:?})", self.kind), status)?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// What cuDNN calls it, for as long as it lives.
    pub(super) fn raw(&self) -> *mut c_void {
        self.raw
    }

    fn set<V: Value>(&self, attribute: c_int, values: &[V]) -> Result<(), Error> {
        let count = i64::try_from(values.len()).unwrap_or(i64::MAX);
        // SAFETY: the descriptor is alive, and there are so many values of the type that cuDNN is told.
        let status = unsafe {
            (self.api.functions().cudnnBackendSetAttribute)(self.raw, attribute, V::TYPE, count, values.as_ptr().cast())
        };
        self.api.check(&format!("setting attribute {attribute} of a descriptor ({:?})", self.kind), status)
    }

    /// Fills `values` as far as there are some, and returns how many there are of these.
    fn ask<V: Value>(&self, attribute: c_int, values: &mut [V]) -> Result<usize, Error> {
        let (room, mut count) = (i64::try_from(values.len()).unwrap_or(i64::MAX), 0);
        // SAFETY: the descriptor is alive, and there is room for so many values of the type that cuDNN is told.
        let status = unsafe {
            (self.api.functions().cudnnBackendGetAttribute)(
                self.raw,
                attribute,
                V::TYPE,
                room,
                &raw mut count,
                values.as_mut_ptr().cast(),
            )
        };
        self.api.check(&format!("asking for attribute {attribute} of a descriptor ({:?})", self.kind), status)?;
        Ok(usize::try_from(count).unwrap_or(0).min(values.len()))
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the descriptor is alive until now and is used no more. There is nothing to be done about an error.
        let _ = unsafe { (self.api.functions().cudnnBackendDestroyDescriptor)(self.raw) };
    }
}
