//! Where an audit log is written, and how long its files are kept.

use std::time::Duration;

use ginnel_core::audit::LogFiles;

use super::CloudLogging;
use crate::shape::{self, Fields, object};

/// Least and most bytes after which a log goes on in another file: some 1,500 records, and more than any tool likes to open.
const ROTATE_SIZE: (u64, u64) = (1 << 20, 64 << 30);

/// Shortest and longest time after which it does. A file a minute is for trying it out; after a year a size is meant.
const ROTATE_AGE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(366 * 86_400));

/// Least and most bytes of old files that are kept.
const KEEP_SIZE: (u64, u64) = (1 << 20, 1 << 50);

/// Shortest and longest time for which old files are kept. Twenty years are longer than anybody asks for.
const KEEP_FOR: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(20 * 366 * 86_400));

/// A log, and what is given its records as well.
pub(super) fn log_and_sink(fields: &mut Fields<'_, '_>) -> Option<(LogFiles, Option<CloudLogging>)> {
    let files = log(fields);
    let cloud_logging = super::sink::cloud_logging(fields);
    Some((files?, cloud_logging?))
}

/// A log without anything beyond the disk.
pub(super) fn log(fields: &mut Fields<'_, '_>) -> Option<LogFiles> {
    fields.field("file", "JSON lines in files.").required(object(files))
}

fn files(fields: &mut Fields<'_, '_>) -> Option<LogFiles> {
    let directory = fields
        .field(
            "directory",
            "Directory of the log, created at first start. While it cannot be written, new sessions are refused.",
        )
        .example("/var/lib/ginnel/audit")
        .required(shape::file());
    let rotate_size = fields
        .field("rotateSize", "Size from which the log goes on in another file, from 1MiB to 64GiB.")
        .default("64MiB", shape::size(ROTATE_SIZE.0, ROTATE_SIZE.1));
    let rotate_age = fields
        .field("rotateAge", "Age from which it does, from 1m to 366d; then its keys are changed as well.")
        .default("1d", shape::duration(ROTATE_AGE.0, ROTATE_AGE.1));
    let keep_size = fields
        .field(
            "keepSize",
            "How much the old files together may have, from 1MiB to 1024TiB, before the oldest are removed. Without it and keepFor nothing is \
             ever removed.",
        )
        .example_off("10GiB")
        .optional(shape::size(KEEP_SIZE.0, KEEP_SIZE.1));
    let keep_for = fields
        .field(
            "keepFor",
            "How long an old file is kept after its last record, from 1h to 7320d. Each removal is itself on record.",
        )
        .example_off("400d")
        .optional(shape::duration(KEEP_FOR.0, KEEP_FOR.1));
    Some(LogFiles { directory: directory?, rotate_size: rotate_size?, rotate_age: rotate_age?, keep_size, keep_for })
}
