//! On which GPUs a grid's runs are made.

use anyhow::{Result, bail};

use crate::config::is_cuda;

/// What `--device` of a grid says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Devices {
    /// The experiments' own: one device, or what their grid names.
    Own(Option<String>),
    /// These GPUs: each run on one of them.
    These(Vec<usize>),
    /// All GPUs of the machine.
    All,
}

impl Devices {
    /// Reads `--device`: what an experiment takes, `cuda:0,cuda:1`, or `cuda:all`.
    ///
    /// # Errors
    ///
    /// A list that holds something else than GPUs, or one twice.
    pub fn of(said: Option<&str>) -> Result<Self> {
        match said {
            Some("cuda:all") => Ok(Self::All),
            Some(list) if list.contains(',') => {
                let mut these = Vec::new();
                for name in list.split(',').map(str::trim) {
                    let number = name.strip_prefix("cuda:").and_then(|n| n.parse().ok());
                    match number {
                        Some(number) if these.contains(&number) => {
                            bail!("--device names {name} twice; name each once")
                        }
                        Some(number) => these.push(number),
                        None => bail!(
                            "--device is `{list}`; expected one device, GPUs such as cuda:0,cuda:1, or cuda:all"
                        ),
                    }
                }
                Ok(Self::These(these))
            }
            said => Ok(Self::Own(said.map(Into::into))),
        }
    }

    /// The device in the experiments. A process sees one of several GPUs, as its first: which one decides no number, and a
    /// run is the same run on any.
    pub fn in_experiment(&self) -> Option<String> {
        match self {
            Self::Own(said) => said.clone(),
            Self::These(_) | Self::All => Some("cuda".into()),
        }
    }

    /// A lane each: the GPU that its process sees, or none where it sees what this one does. `count` asks the driver.
    ///
    /// # Errors
    ///
    /// When there is no such GPU.
    pub fn lanes(&self, count: impl Fn() -> Result<usize>) -> Result<Vec<Option<usize>>> {
        match self {
            Self::Own(_) => Ok(vec![None]),
            Self::All => Ok((0..count()?).map(Some).collect()),
            Self::These(these) => {
                let there = count()?;
                if let Some(missing) = these.iter().find(|&&number| number >= there) {
                    bail!(
                        "--device names cuda:{missing}, and there are {there} CUDA devices, counted from 0; leave it out, or take cuda:all"
                    );
                }
                Ok(these.iter().copied().map(Some).collect())
            }
        }
    }

    /// Refuses what a cluster's job cannot have: it sees the GPUs it was given, counted from 0.
    ///
    /// # Errors
    ///
    /// A GPU by its number.
    pub fn refuse_numbers(&self) -> Result<()> {
        let said = match self {
            Self::Own(Some(said)) if is_cuda(said) && said != "cuda" => said,
            Self::These(_) => "a list",
            Self::All => "cuda:all",
            Self::Own(_) => return Ok(()),
        };
        bail!(
            "--device is {said}, and a Slurm job sees the GPUs that it is given, counted from 0; ask for one a task with --device cuda --gres gpu:1"
        )
    }
}

/// How many GPUs there are.
///
/// # Errors
///
/// When there is none, or this program was built without CUDA.
pub fn count(device: &str) -> Result<usize> {
    #[cfg(feature = "cuda")]
    return crate::cuda::device::count(device);
    #[cfg(not(feature = "cuda"))]
    Err(crate::config::without_cuda(device))
}

/// What `CUDA_VISIBLE_DEVICES` is for a process that sees the GPU of this number alone, `here` being its value in this one.
pub fn visible(here: Option<&str>, number: usize) -> String {
    let listed = here.and_then(|list| list.split(',').nth(number));
    listed.map_or_else(|| number.to_string(), |name| name.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_gpus_are_named_or_all_are_meant() {
        let of = |said| Devices::of(Some(said));
        assert_eq!(of("cuda:all").unwrap(), Devices::All);
        let two = of("cuda:0, cuda:2").unwrap();
        assert_eq!(two, Devices::These(vec![0, 2]));
        assert_eq!(two.in_experiment().unwrap(), "cuda");
        assert_eq!(two.lanes(|| Ok(3)).unwrap(), [Some(0), Some(2)]);
        assert_eq!(
            two.lanes(|| Ok(2)).unwrap_err().to_string(),
            "--device names cuda:2, and there are 2 CUDA devices, counted from 0; leave it out, or take cuda:all"
        );
        assert_eq!(
            of("cuda:all").unwrap().lanes(|| Ok(2)).unwrap(),
            [Some(0), Some(1)]
        );
        let one = of("cuda:1").unwrap();
        assert_eq!(one.in_experiment().unwrap(), "cuda:1");
        assert_eq!(one.lanes(|| Ok(9)).unwrap(), [None]);
        assert_eq!(Devices::of(None).unwrap().in_experiment(), None);
        assert_eq!(
            of("cuda:0,cuda:0").unwrap_err().to_string(),
            "--device names cuda:0 twice; name each once"
        );
        assert_eq!(
            of("cuda:0,cpu").unwrap_err().to_string(),
            "--device is `cuda:0,cpu`; expected one device, GPUs such as cuda:0,cuda:1, or cuda:all"
        );
    }

    #[test]
    fn a_job_of_a_cluster_counts_its_own_gpus() {
        for fine in [None, Some("cpu"), Some("cuda")] {
            Devices::of(fine).unwrap().refuse_numbers().unwrap();
        }
        for (said, shown) in [
            ("cuda:1", "cuda:1"),
            ("cuda:0,cuda:1", "a list"),
            ("cuda:all", "cuda:all"),
        ] {
            let error = Devices::of(Some(said)).unwrap().refuse_numbers();
            assert_eq!(
                error.unwrap_err().to_string(),
                format!(
                    "--device is {shown}, and a Slurm job sees the GPUs that it is given, counted from 0; ask for one a task with --device cuda --gres gpu:1"
                )
            );
        }
    }

    #[test]
    fn a_gpu_is_found_among_those_that_this_process_sees() {
        assert_eq!(visible(None, 2), "2");
        assert_eq!(visible(Some("5, 7"), 1), "7");
        assert_eq!(visible(Some("GPU-8932f937"), 0), "GPU-8932f937");
    }
}
