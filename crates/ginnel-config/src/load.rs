//! From a file to a typed model: the same way for every declaration.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::finding::{Collector, Findings, LoadError, Place};
use crate::overrides::Overrides;
use crate::shape::{Context, Fields, Shape, object};
use crate::tree::{self, FILE_BYTES_MAX};

/// A section that is declared by a function.
pub type Declaration<T> = fn(&mut Fields<'_, '_>) -> Option<T>;

/// Where a configuration comes from, so that it can be read again while the process runs.
#[derive(Clone, Debug)]
pub struct Source<C> {
    path: PathBuf,
    overrides: Overrides,
    read: fn(&Path, &Overrides) -> Result<C, LoadError>,
}

impl<C> Source<C> {
    pub(crate) fn new(
        path: PathBuf,
        overrides: Overrides,
        read: fn(&Path, &Overrides) -> Result<C, LoadError>,
    ) -> Self {
        Self { path, overrides, read }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file as it is at this moment, and what overrides it.
    ///
    /// # Errors
    /// [`LoadError`] if the file cannot be read, or with everything that is wrong.
    pub fn load(&self) -> Result<C, LoadError> {
        (self.read)(&self.path, &self.overrides)
    }
}

/// Reads a file and what overrides it.
///
/// Relative paths in the file start at its directory.
///
/// # Errors
/// [`LoadError::Read`] if the file cannot be read, [`LoadError::Invalid`] with everything that is wrong otherwise.
pub fn load<T>(declaration: Declaration<T>, path: &Path, overrides: &Overrides) -> Result<T, LoadError> {
    let name = path.display().to_string();
    let base_dir = path.parent().unwrap_or(Path::new(""));
    Ok(parse(declaration, &read_text(path)?, &name, base_dir, overrides)?)
}

/// The text of a file, up to a little more than it may have.
pub(crate) fn read_text(path: &Path) -> Result<String, LoadError> {
    let read_error = |source| LoadError::Read { path: path.to_owned(), source };
    // One byte more than the bound is enough to see that a file is too large.
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(read_error)?;
    let name = path.display().to_string();
    String::from_utf8(bytes).map_err(|error| not_utf8(error.as_bytes(), error.utf8_error().valid_up_to(), &name).into())
}

/// Reads a text and what overrides it. `file_name` is what findings call it, `base_dir` where relative paths start.
///
/// # Errors
/// [`Findings`] with everything that is wrong.
pub fn parse<T>(
    declaration: Declaration<T>,
    text: &str,
    file_name: &str,
    base_dir: &Path,
    overrides: &Overrides,
) -> Result<T, Findings> {
    let mut findings = Collector::new(file_name);
    let shape = object(declaration);
    let value = tree::parse(text, &mut findings).and_then(|mut root| {
        overrides.apply(&mut root, &shape.kind(), &mut findings);
        shape.decode(&root, &Place::START, &mut Context::new(&mut findings, base_dir))
    });
    match (findings.finish(), value) {
        (None, Some(value)) => Ok(value),
        (Some(findings), _) => Err(findings),
        // A declaration that gives up without saying why: its own mistake, and still no configuration.
        (None, None) => Err(Findings::one(file_name, &Place::Whole, "cannot be used")),
    }
}

fn not_utf8(bytes: &[u8], valid: usize, file_name: &str) -> Findings {
    let text = String::from_utf8_lossy(&bytes[..valid]);
    let (line, column) =
        text.split('\n').enumerate().last().map_or((0, 0), |(line, last)| (line, last.chars().count()));
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).saturating_add(1);
    Findings::one(file_name, &Place::File { line: number(line), column: number(column) }, "is not UTF-8")
}
