//! What a loss asks of the driver: launches, and nothing that waits for the device.

use std::{collections::BTreeMap, env, fs, process::Command};

use dice_losses::Prediction;

use super::{Scene, gpu, spec};

const TIMES: &str = "LOSSES_TO_COUNT";

/// In a process of its own, whose calls are counted: as many losses as it is told.
#[test]
#[ignore = "run by the test below"]
fn some_losses() {
    let Ok(times) = env::var(TIMES) else { return };
    let gpu = gpu();
    let (logits, target) = Scene::new(&[2, 3, 16]).tensors(&gpu);
    let var = candle_core::Var::from_tensor(&logits).unwrap();
    let mut kept = Vec::new();
    for _ in 0..times.parse::<usize>().unwrap() {
        let loss = spec("unified-focal++:gamma=2");
        kept.push(loss.value_and_grad(&(&logits).into(), &target).unwrap());
        let value = loss.loss(&Prediction::logits(&var), &target).unwrap();
        let gradients = value.backward().unwrap();
        kept.push((value, gradients.get(&var).unwrap().clone()));
    }
    // So that nothing is given back before the end.
    std::mem::forget(kept);
}

/// Calls of the driver by name, for so many losses.
fn calls(times: usize) -> BTreeMap<String, u64> {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("counts");
    let output = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "loss::counts::some_losses",
            "--include-ignored",
            "--test-threads=1",
        ])
        .env("SOFT_CUDA_COUNT", &file)
        .env(TIMES, times.to_string())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    let mut calls = BTreeMap::new();
    for line in fs::read_to_string(file).unwrap_or_default().lines() {
        let (name, count) = line.rsplit_once(' ').unwrap();
        *calls.entry(name.to_owned()).or_default() += count.parse::<u64>().unwrap();
    }
    calls
}

#[test]
fn nothing_waits_for_the_device() {
    let (few, many) = (calls(1), calls(4));
    if few.is_empty() {
        println!("skipped: the driver does not count its calls; soft CUDA does");
        return;
    }
    let more: BTreeMap<&str, u64> = many
        .iter()
        .map(|(name, count)| (name.as_str(), count - few.get(name).copied().unwrap_or(0)))
        .filter(|(_, more)| *more > 0)
        .collect();
    println!("for three more of each: {more:?}");
    for name in more.keys() {
        let waits = name.contains("Synchronize") || name.contains("DtoH");
        assert!(!waits, "{name}: {more:?}");
    }
    // One launch for the sums and the loss, one for the gradient, each once more by way of autograd.
    let launches = |name: &str| -> u64 {
        let all = more
            .iter()
            .filter(|(call, _)| **call == format!("kernel {name}"));
        all.map(|(_, count)| count).sum()
    };
    assert_eq!(launches("statistics"), 3 * 2, "{more:?}");
    assert_eq!(launches("gradient"), 3 * 2, "{more:?}");
}
