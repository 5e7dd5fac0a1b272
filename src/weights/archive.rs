//! The safetensors format: a header read and checked whole, tensors read one by one; a file written at once.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::error::{Error, ErrorKind, Result, fail};
use crate::tensor::{DType, Element, with_dtype};

/// The format's own limit, and what keeps a hostile length from allocating.
const MAX_HEADER_LEN: u64 = 100_000_000;

/// Bytes before the header: its length.
const LEN_LEN: u64 = 8;

/// A safetensors file open for reading.
pub(super) struct Archive<R> {
    reader: R,
    name: String,
    header: Metadata,
    data_start: u64,
}

impl<R: Read + Seek> Archive<R> {
    /// Reads and checks the header. `name` is what messages call the file.
    pub(super) fn open(mut reader: R, name: String) -> Result<Self> {
        let cannot_read = |error| cannot_read(&name, error);
        let len = reader.seek(SeekFrom::End(0)).map_err(cannot_read)?;
        reader.rewind().map_err(cannot_read)?;
        if len < LEN_LEN {
            fail!(
                Format,
                "{name} is cut short: it is {len} bytes long, and its first {LEN_LEN} are a length"
            );
        }
        let mut header_len = [0; LEN_LEN as usize];
        reader.read_exact(&mut header_len).map_err(cannot_read)?;
        let header_len = u64::from_le_bytes(header_len);
        if header_len > MAX_HEADER_LEN {
            fail!(
                Format,
                "{name} is no safetensors file: its header would be {header_len} bytes long, at most {MAX_HEADER_LEN} are allowed"
            );
        }
        let data_start = LEN_LEN + header_len;
        if data_start > len {
            fail!(
                Format,
                "{name} is cut short: it is {len} bytes long, and its header ends at byte {data_start}"
            );
        }
        let mut header = reserved("the header", header_len as usize)?;
        header.resize(header_len as usize, 0);
        reader.read_exact(&mut header).map_err(cannot_read)?;

        // This checks that the tensors' bytes follow each other without a gap and fit their shapes.
        let header: Metadata = match serde_json::from_slice(&header) {
            Ok(header) => header,
            Err(error) => fail!(Format, "the header of {name} is not that of a safetensors file: {error}"),
        };
        let (data_len, available) = (header.data_len() as u64, len - data_start);
        if data_len > available {
            let end_of = |tensor: &str| header.info(tensor).map_or(0, |info| info.data_offsets.1 as u64);
            let cut = header
                .offset_keys()
                .into_iter()
                .find(|tensor| end_of(tensor) > available)
                .unwrap_or_default();
            fail!(
                Format,
                "tensor {cut:?} is cut short: its data end at byte {} of {name}, which is {len} bytes long",
                end_of(&cut).saturating_add(data_start)
            );
        }
        if data_len < available {
            fail!(
                Format,
                "{name} is {len} bytes long; its last tensor ends at byte {}",
                data_start + data_len
            );
        }
        Ok(Archive { reader, name, header, data_start })
    }

    /// What messages call the file.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A value of the metadata.
    pub(super) fn metadata(&self, key: &str) -> Option<&str> {
        Some(self.header.metadata().as_ref()?.get(key)?.as_str())
    }

    /// Every tensor by its name.
    pub(super) fn tensors(&self) -> HashMap<String, &TensorInfo> {
        self.header.tensors()
    }

    /// The values of a tensor of one of the four floating-point types, rounded to `T` if that cannot hold them.
    pub(super) fn values<T: Element>(&mut self, tensor: &str) -> Result<Vec<T>> {
        let Some(info) = self.header.info(tensor) else {
            fail!(NotFound, "tensor {tensor:?} is missing from {}", self.name);
        };
        let (start, end) = info.data_offsets;
        let mut values = reserved(tensor, info.shape.iter().product())?;
        self.reader
            .seek(SeekFrom::Start(self.data_start + start as u64))
            .map_err(|error| cannot_read(&self.name, error))?;

        let mut chunk = [0; 1 << 16];
        let mut left = end - start;
        while left > 0 {
            let bytes = &mut chunk[..left.min(1 << 16)];
            self.reader.read_exact(bytes).map_err(|error| cannot_read(&self.name, error))?;
            left -= bytes.len();
            match dtype(info.dtype) {
                Some(dtype) => from_le_bytes(dtype, bytes, &mut values),
                None => fail!(
                    Unsupported,
                    "tensor {tensor:?} is of type {}; it must be F32, F64, F16 or BF16",
                    info.dtype
                ),
            }
        }
        Ok(values)
    }
}

fn cannot_read(name: &str, error: io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot read {name}: {error}"))
}

/// An empty vector with room for `len` values. `what` names them in the error.
pub(super) fn reserved<T>(what: &str, len: usize) -> Result<Vec<T>> {
    let mut vector = Vec::new();
    if vector.try_reserve_exact(len).is_err() {
        fail!(OutOfMemory, "no memory for the {len} values of {what}");
    }
    Ok(vector)
}

/// The type of ours that a file's is.
pub(super) fn dtype(stored: Dtype) -> Option<DType> {
    match stored {
        Dtype::F32 => Some(DType::F32),
        Dtype::F64 => Some(DType::F64),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::Bf16),
        _ => None,
    }
}

/// Appends the little-endian values of type `dtype` in `bytes`.
fn from_le_bytes<T: Element>(dtype: DType, bytes: &[u8], values: &mut Vec<T>) {
    with_dtype!(dtype, S => values.extend(bytes.as_chunks().0.iter().map(|b| S::from_le_bytes(*b).convert::<T>())));
}

/// Length and header of a file of tensors with these names, types and shapes, whose data follow in the same order.
pub(super) fn header<'a>(
    metadata: &BTreeMap<&str, String>,
    tensors: impl Iterator<Item = (&'a str, DType, &'a [usize])>,
) -> Result<Vec<u8>> {
    let mut header = BTreeMap::from([("__metadata__", serde_json::json!(metadata))]);
    let mut end = 0;
    for (name, dtype, shape) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * dtype.size();
        let stored = match dtype {
            DType::F32 => "F32",
            DType::F64 => "F64",
            DType::F16 => "F16",
            DType::Bf16 => "BF16",
        };
        let info = serde_json::json!({"dtype": stored, "shape": shape, "data_offsets": [start, end]});
        header.insert(name, info);
    }
    let mut text = serde_json::json!(header).to_string();
    // Data begin at a multiple of 8.
    while text.len() % 8 != 0 {
        text.push(' ');
    }
    if text.len() as u64 > MAX_HEADER_LEN {
        fail!(
            Unsupported,
            "the layer has {} tensors; a safetensors file cannot list as many",
            header.len() - 1
        );
    }
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.into_bytes());
    Ok(bytes)
}

/// A failure while writing: the system's, or one of ours.
pub(super) enum WriteError {
    Io(io::Error),
    Other(Error),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        WriteError::Io(error)
    }
}

impl From<Error> for WriteError {
    fn from(error: Error) -> Self {
        WriteError::Other(error)
    }
}

/// Makes `path` the file that `write` writes, or leaves it as it was.
pub(super) fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> std::result::Result<(), WriteError>,
) -> Result<()> {
    replace(path, write).map_err(|error| match error {
        WriteError::Io(error) => Error::new(ErrorKind::Io, format!("cannot write {path:?}: {error}")),
        WriteError::Other(error) => error,
    })
}

fn replace(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> std::result::Result<(), WriteError>,
) -> std::result::Result<(), WriteError> {
    // The file behind a symbolic link is replaced, not the link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let permissions = match fs::metadata(&path) {
        // A rename would put a file in the place of a device such as /dev/null.
        Ok(there) if !there.is_file() => {
            return Err(io::Error::other("it is there and not a regular file").into());
        }
        Ok(there) => Some(there.permissions()),
        Err(_) => None,
    };
    let (temporary, file) = create_beside(&path)?;
    let written = (|| {
        let mut file = BufWriter::with_capacity(1 << 16, file);
        write(&mut file)?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        if let Some(permissions) = permissions {
            file.set_permissions(permissions)?;
        }
        file.sync_all()?;
        drop(file); // some systems rename no open file
        Ok(fs::rename(&temporary, &path)?)
    })();
    if written.is_err() {
        // Nothing better can be done should this fail too.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Creates a file with a name of its own in the directory of `path`.
fn create_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    loop {
        let name =
            format!(".lite-mamba-{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let temporary = path.with_file_name(name);
        match File::create_new(&temporary) {
            Ok(file) => return Ok((temporary, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// An empty directory of this test's own, removed at the end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("lite-mamba-{test}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Directory(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let directory = Directory::new("failed-write");
        let path = directory.0.join("layer.safetensors");
        write_atomically(&path, |file| Ok(file.write_all(b"old")?)).unwrap();

        let error = write_atomically(&path, |file| {
            file.write_all(&[0; 1 << 17])?;
            Err(io::Error::other("the disk is full").into())
        })
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert_eq!(error.message(), format!("cannot write {path:?}: the disk is full"));

        let error = write_atomically(&path, |_| fail_of_ours()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);

        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(directory.names(), ["layer.safetensors"]);
    }

    fn fail_of_ours() -> std::result::Result<(), WriteError> {
        Err(Error::new(ErrorKind::OutOfMemory, "no memory").into())
    }

    #[test]
    fn a_write_replaces_the_file_and_leaves_nothing_else() {
        let directory = Directory::new("replacing-write");
        let path = directory.0.join("layer.safetensors");
        for content in ["old and long", "new"] {
            write_atomically(&path, |file| Ok(file.write_all(content.as_bytes())?)).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(directory.names(), ["layer.safetensors"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_permissions_and_devices_are_kept() {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

        let directory = Directory::new("links");
        let (file, link) = (directory.0.join("file"), directory.0.join("link"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        symlink("file", &link).unwrap();
        write_atomically(&link, |file| Ok(file.write_all(b"new")?)).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());

        let device = Path::new("/dev/null");
        let error = write_atomically(device, |_| Ok(())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(fs::metadata(device).unwrap().file_type().is_char_device());
    }
}
