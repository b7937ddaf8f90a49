//! placeholder
/// x
#[derive(Debug)]
pub struct FileSystemDisk;
