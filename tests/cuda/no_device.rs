//! A machine with the driver's library and without a device.

use tempfile::TempDir;

/// One clear line instead of a run. On a machine with a GPU the driver is told to show none.
#[test]
fn without_a_device_one_line_says_so() {
    let folder = TempDir::new().unwrap();
    let output = crate::seg_train()
        .args([
            "--loss", "dice", "--data", "phantom", "--out", "run", "--device", "cuda",
        ])
        .env("SOFT_CUDA_DEVICES", "0")
        .env("CUDA_VISIBLE_DEVICES", "")
        .current_dir(folder.path())
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{errors}");
    let said: Vec<&str> = errors.lines().collect();
    assert_eq!(said.len(), 1, "{errors}");
    assert!(
        said[0].starts_with("error: no CUDA device: device `cuda` cannot be opened: "),
        "{errors}"
    );
    assert!(!folder.path().join("run").exists(), "no run was begun");
}
