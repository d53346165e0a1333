//! The folder: its manifest, its records and their tensors.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    collections::HashMap,
    env, fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Result, Tensor};
use serde_json::{Map, Value};

/// Why a record has no counterpart here.
#[derive(Debug)]
pub(crate) struct LeftOut(pub(crate) String);

/// Leaves a record out.
pub(crate) fn left_out<T>(reason: impl Into<String>) -> std::result::Result<T, LeftOut> {
    Err(LeftOut(reason.into()))
}

/// What a mapping from a record to something of ours returns.
pub(crate) type Mapped<T> = std::result::Result<T, LeftOut>;

/// `|found − expected| ≤ abs + rel·|expected|`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub(crate) abs: f64,
    pub(crate) rel: f64,
}

impl Bound {
    /// The same, but at least this wide.
    pub(crate) fn at_least(self, abs: f64, rel: f64) -> Self {
        Self {
            abs: self.abs.max(abs),
            rel: self.rel.max(rel),
        }
    }
}

/// A golden folder.
pub(crate) struct Folder {
    path: PathBuf,
    manifest: Value,
    /// Whether it is the repository's own.
    pub(crate) own: bool,
}

impl Folder {
    pub(crate) fn open() -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (path, own) = match env::var_os("DICE_GOLDEN").filter(|path| !path.is_empty()) {
            // Cargo starts a test in its package's folder, but the path was written in the workspace's.
            Some(path) if Path::new(&path).is_dir() => (PathBuf::from(path), false),
            Some(path) => (here.join("..").join(path), false),
            None => (here.join("fixtures/golden"), true),
        };
        let file = path.join("manifest.json");
        let text = fs::read_to_string(&file)
            .unwrap_or_else(|e| panic!("cannot read {}: {e}", file.display()));
        let manifest = serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("{} is not JSON: {e}", file.display()));
        Self {
            path,
            manifest,
            own,
        }
    }

    /// The records of a family and its tensors; `None` if the folder has no such family.
    pub(crate) fn family(&self, name: &str) -> Option<Family> {
        let description = self.manifest["families"].get(name)?;
        let file = description["file"]
            .as_str()
            .map_or_else(|| format!("{name}.safetensors"), String::from);
        let file = self.path.join(file);
        let tensors = if file.exists() {
            candle_core::safetensors::load(&file, &Device::Cpu)
                .unwrap_or_else(|e| panic!("cannot read {}: {e}", file.display()))
        } else {
            HashMap::new()
        };
        let records = self.manifest["records"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|record| record["family"] == name)
            .map(|json| Record {
                json: json.clone(),
                read: RefCell::new(BTreeSet::new()),
            })
            .collect();
        Some(Family { records, tensors })
    }

    /// The bound of a record's `tol`, an object or the name of one, for what it speaks of (`value`, `grad`).
    pub(crate) fn bound(&self, record: &Record, what: &str) -> Bound {
        match &record.json["tol"] {
            Value::String(name) => self.named_bound(name, what),
            object => bound(object, what),
        }
    }

    /// The bound of one of the manifest's named tolerances.
    pub(crate) fn named_bound(&self, name: &str, what: &str) -> Bound {
        bound(&self.manifest["tolerances"][name], what)
    }
}

/// `{value_abs, value_rel}` of a tolerance, or `{abs, rel}` of one that is for everything.
pub(crate) fn bound(tolerance: &Value, what: &str) -> Bound {
    let number = |kind: &str| {
        tolerance[format!("{what}_{kind}")]
            .as_f64()
            .or_else(|| tolerance[kind].as_f64())
            .unwrap_or(0.0)
    };
    Bound {
        abs: number("abs"),
        rel: number("rel"),
    }
}

/// All records and tensors of one file.
pub(crate) struct Family {
    pub(crate) records: Vec<Record>,
    tensors: HashMap<String, Tensor>,
}

impl Family {
    /// A tensor by its key in the file.
    pub(crate) fn tensor(&self, key: &str) -> Option<&Tensor> {
        self.tensors.get(key)
    }

    /// A record's tensor by its role.
    pub(crate) fn of(&self, record: &Record, role: &str) -> Option<&Tensor> {
        self.tensor(record.json["tensors"][role].as_str()?)
    }

    /// The same, or a sentence.
    pub(crate) fn need(&self, record: &Record, role: &str) -> Result<&Tensor> {
        self.of(record, role)
            .ok_or_else(|| candle_core::Error::Msg(format!("the record has no tensor `{role}`")))
    }
}

/// One record of the manifest.
pub(crate) struct Record {
    pub(crate) json: Value,
    /// The parameters that were looked at.
    read: RefCell<BTreeSet<String>>,
}

impl Record {
    fn text(&self, key: &str) -> &str {
        self.json[key].as_str().unwrap_or_default()
    }

    pub(crate) fn id(&self) -> &str {
        self.text("id")
    }

    pub(crate) fn loss(&self) -> &str {
        self.text("loss")
    }

    pub(crate) fn case(&self) -> &str {
        self.text("case")
    }

    pub(crate) fn is_f32(&self) -> bool {
        self.text("dtype") == "f32"
    }

    pub(crate) fn dtype(&self) -> DType {
        if self.is_f32() {
            DType::F32
        } else {
            DType::F64
        }
    }

    /// The recorded value, if it is finite.
    pub(crate) fn value(&self) -> Option<f64> {
        self.json["value"].as_f64()
    }

    /// Whether the recorded value is NaN or infinite.
    pub(crate) fn value_is_special(&self) -> bool {
        self.json["value_special"].is_string()
    }

    /// Whether a role's tensor holds NaN or infinities.
    pub(crate) fn is_nonfinite(&self, role: &str) -> bool {
        let roles = self.json["nonfinite"].as_array();
        roles.is_some_and(|roles| roles.iter().any(|r| r == role))
    }

    fn params(&self) -> Option<&Map<String, Value>> {
        self.json["params"].as_object()
    }

    /// A parameter, `None` if it is absent or null.
    pub(crate) fn param(&self, key: &str) -> Option<&Value> {
        self.read.borrow_mut().insert(String::from(key));
        self.params()?.get(key).filter(|value| !value.is_null())
    }

    /// A number, or the reference's default.
    pub(crate) fn number_or(&self, key: &str, default: f64) -> Mapped<f64> {
        match self.param(key) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .ok_or_else(|| LeftOut(format!("parameter `{key}` is not a number"))),
        }
    }

    /// A number that the record must name.
    pub(crate) fn number(&self, key: &str) -> Mapped<f64> {
        if self.param(key).is_none() {
            return left_out(format!("parameter `{key}` is missing"));
        }
        self.number_or(key, 0.0)
    }

    /// A flag, or the reference's default.
    pub(crate) fn flag_or(&self, key: &str, default: bool) -> Mapped<bool> {
        match self.param(key) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| LeftOut(format!("parameter `{key}` is not a flag"))),
        }
    }

    /// A word, or the reference's default.
    pub(crate) fn word_or<'a>(&'a self, key: &str, default: &'a str) -> &'a str {
        self.param(key).and_then(Value::as_str).unwrap_or(default)
    }

    /// A list of numbers; one number is a list of one.
    pub(crate) fn list(&self, key: &str) -> Mapped<Option<Vec<f64>>> {
        let numbers: Option<Vec<f64>> = match self.param(key) {
            None => return Ok(None),
            Some(Value::Array(values)) => values.iter().map(Value::as_f64).collect(),
            Some(value) => value.as_f64().map(|value| vec![value]),
        };
        match numbers {
            Some(numbers) => Ok(Some(numbers)),
            None => left_out(format!("parameter `{key}` is not a list of numbers")),
        }
    }

    /// A parameter that nobody looked at would be silently taken for its default.
    pub(crate) fn all_read(&self) -> Mapped<()> {
        let read = self.read.borrow();
        let unread = self
            .params()
            .into_iter()
            .flatten()
            .find(|(key, value)| !read.contains(*key) && !value.is_null());
        match unread {
            Some((key, _)) => left_out(format!("parameter `{key}` is unknown to this test")),
            None => Ok(()),
        }
    }
}
