//! Runs on a cluster: one Slurm job array on a shared folder, and a job after it that makes the report.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{run_folder::first_free, store};

/// What a job asks Slurm for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// `--partition`.
    pub partition: Option<String>,
    /// `--gres`, such as `gpu:1`.
    pub gres: Option<String>,
    /// `--time` of one run.
    pub time: Option<String>,
    /// How many runs at a time, at most.
    pub array_limit: Option<usize>,
    /// Cores of one run.
    pub cpus: Option<usize>,
    /// Runs that a task makes side by side; 0 is 1.
    pub side_by_side: usize,
    /// Whatever else `sbatch` takes, such as `--account=lab`; for the job of the report too.
    pub options: Vec<String>,
}

/// The scripts of one submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scripts {
    /// The job array: a task a run, or several that share its GPU.
    pub array: String,
    /// The job after it: the report.
    pub collect: String,
}

/// Where they are written and what Slurm called the jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// The folder of the scripts and of what the jobs say.
    pub folder: PathBuf,
    /// The array's number.
    pub array: String,
    /// The number of the job that makes the report.
    pub collect: String,
}

/// One word of a shell command, whatever it holds.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./+=:,%@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

impl Scripts {
    /// The scripts that make `runs` of the grid in `out` by `program`; what jobs say goes to `folder`.
    ///
    /// A task that Slurm requeues, after a failed node or a preemption, goes on from its last completed epoch; one whose
    /// run is done already ends at once.
    ///
    /// # Errors
    ///
    /// A path with a line break or a percent sign, which a directive of Slurm cannot hold.
    pub fn of(
        program: &Path,
        out: &Path,
        folder: &Path,
        runs: &[&str],
        wants: &Wants,
    ) -> Result<Self> {
        let word = |path: &Path| -> Result<String> {
            match path.to_str() {
                Some(text) if !text.contains(['\n', '%', '"']) => Ok(text.into()),
                _ => bail!(
                    "{} cannot stand in a Slurm script; name a folder without line breaks, quotes and percent signs",
                    path.display()
                ),
            }
        };
        let (program, out, folder) = (word(program)?, word(out)?, word(folder)?);
        let limit = wants.array_limit.map_or(String::new(), |n| format!("%{n}"));
        let mut asks = Vec::new();
        for (option, value) in [
            ("partition", &wants.partition),
            ("gres", &wants.gres),
            ("time", &wants.time),
        ] {
            if let Some(value) = value {
                if value.contains(char::is_whitespace) {
                    bail!("--{option} is `{value}`; expected one word, as sbatch takes it");
                }
                asks.push(format!("#SBATCH --{option}={value}"));
            }
        }
        if let Some(cpus) = wants.cpus {
            asks.push(format!("#SBATCH --cpus-per-task={cpus}"));
        }
        for option in &wants.options {
            if !option.starts_with("--") || option.contains(char::is_whitespace) {
                bail!(
                    "--sbatch is `{option}`; expected one option as sbatch takes it, such as --sbatch=--account=lab"
                );
            }
        }
        let more = wants.options.iter().fold(String::new(), |all, option| {
            all + "#SBATCH "
                + option
                + "
"
        });
        let asks = asks.iter().fold(String::new(), |all, ask| all + ask + "\n");
        let runs = runs
            .iter()
            .fold(String::new(), |all, run| all + "  " + &quoted(run) + "\n");
        let each = wants.side_by_side.max(1);
        let last = runs.lines().count().div_ceil(each).saturating_sub(1);
        let of_the_task = match each {
            1 => "\"${runs[$SLURM_ARRAY_TASK_ID]}\"".into(),
            _ => format!("\"${{runs[@]:$((SLURM_ARRAY_TASK_ID * {each})):{each}}}\" --jobs {each}"),
        };
        // A job has the cores it asked for; the program would take all that it sees.
        let threads = "export RAYON_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1} CANDLE_NUM_THREADS=1";
        let partition = wants.partition.as_ref().map_or(String::new(), |partition| {
            format!("#SBATCH --partition={partition}\n")
        });
        Ok(Self {
            array: format!(
                "#!/bin/bash\n\
                 #SBATCH --job-name=seg-train\n\
                 #SBATCH --array=0-{last}{limit}\n\
                 #SBATCH --output=\"{folder}/%a.log\"\n\
                 #SBATCH --open-mode=append\n\
                 #SBATCH --requeue\n\
                 {asks}\
                 {more}\
                 {threads}\n\
                 runs=(\n{runs})\n\
                 exec {program} work {out} {of_the_task}\n",
                program = quoted(&program),
                out = quoted(&out)
            ),
            collect: format!(
                "#!/bin/bash\n\
                 #SBATCH --job-name=seg-train-report\n\
                 #SBATCH --output=\"{folder}/collect.log\"\n\
                 #SBATCH --open-mode=append\n\
                 {partition}\
                 {more}\
                 {threads}\n\
                 exec {program} collect {out}\n",
                program = quoted(&program),
                out = quoted(&out)
            ),
        })
    }
}

/// A folder of its own for the next submission.
pub fn next_folder(out: &Path) -> PathBuf {
    first_free(&out.join("slurm").join("submission"))
}

/// Writes the scripts and hands them to `sbatch`, the second to begin when every task of the first has ended.
///
/// # Errors
///
/// When there is no `sbatch`, or it refuses; the message is its own.
pub fn submit(folder: &Path, scripts: &Scripts) -> Result<Submitted> {
    store::create_folder(folder)?;
    let (array, collect) = (folder.join("array.sh"), folder.join("collect.sh"));
    store::write(&array, scripts.array.as_bytes())?;
    store::write(&collect, scripts.collect.as_bytes())?;
    let array = sbatch(&[], &array)?;
    // After any end: runs that failed are named in the report.
    let collect = sbatch(&[&format!("--dependency=afterany:{array}")], &collect)?;
    Ok(Submitted {
        folder: folder.into(),
        array,
        collect,
    })
}

/// Submits one script; the number of its job.
fn sbatch(options: &[&str], script: &Path) -> Result<String> {
    let output = Command::new("sbatch")
        .arg("--parsable")
        .args(options)
        .arg(script)
        .output()
        .context(
            "sbatch cannot be started; run this where Slurm's commands are, or print the scripts with --slurm-script-only",
        )?;
    if !output.status.success() {
        bail!(
            "sbatch refused {}: {}",
            script.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    // NUMBER, or NUMBER;CLUSTER.
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.trim().split(';').next().unwrap_or_default().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scripts(wants: &Wants) -> Scripts {
        Scripts::of(
            Path::new("/opt/seg train/bin"),
            Path::new("/shared/γ's grid"),
            Path::new("/shared/γ's grid/slurm/submission"),
            &["a-dice++2-0-00ff", "b"],
            wants,
        )
        .unwrap()
    }

    #[test]
    fn a_script_asks_for_what_was_wished_and_quotes_what_it_is_given() {
        let wants = Wants {
            partition: Some("gpu".into()),
            gres: Some("gpu:1".into()),
            time: Some("04:00:00".into()),
            array_limit: Some(4),
            cpus: Some(8),
            options: vec!["--account=lab".into()],
            ..Wants::default()
        };
        assert_eq!(
            scripts(&wants).array,
            r#"#!/bin/bash
#SBATCH --job-name=seg-train
#SBATCH --array=0-1%4
#SBATCH --output="/shared/γ's grid/slurm/submission/%a.log"
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --partition=gpu
#SBATCH --gres=gpu:1
#SBATCH --time=04:00:00
#SBATCH --cpus-per-task=8
#SBATCH --account=lab
export RAYON_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1} CANDLE_NUM_THREADS=1
runs=(
  a-dice++2-0-00ff
  b
)
exec '/opt/seg train/bin' work '/shared/γ'\''s grid' "${runs[$SLURM_ARRAY_TASK_ID]}"
"#
        );
        assert!(
            scripts(&Wants::default())
                .collect
                .ends_with("exec '/opt/seg train/bin' collect '/shared/γ'\\''s grid'\n")
        );
        assert!(!scripts(&Wants::default()).array.contains("--time"));
    }

    #[test]
    fn a_task_makes_several_runs_on_the_gpu_that_it_is_given() {
        let wants = Wants {
            gres: Some("gpu:1".into()),
            side_by_side: 4,
            ..Wants::default()
        };
        let runs = ["a", "b", "c", "d", "e"];
        let path = Path::new;
        let scripts =
            Scripts::of(path("/b"), path("/grid"), path("/grid/s"), &runs, &wants).unwrap();
        // Five runs, four to a task.
        assert!(scripts.array.contains("#SBATCH --array=0-1\n"));
        assert!(scripts.array.contains("#SBATCH --gres=gpu:1\n"));
        assert!(
            scripts.array.ends_with(
                "  e\n)\nexec /b work /grid \"${runs[@]:$((SLURM_ARRAY_TASK_ID * 4)):4}\" --jobs 4\n"
            ),
            "{}",
            scripts.array
        );
        // As the shell takes it.
        let line = scripts.array.replace("exec /b", "echo");
        for (task, made) in [
            ("0", "work /grid a b c d --jobs 4\n"),
            ("1", "work /grid e --jobs 4\n"),
        ] {
            let shell = Command::new("bash")
                .args(["-c", &line])
                .env("SLURM_ARRAY_TASK_ID", task)
                .output();
            assert_eq!(String::from_utf8_lossy(&shell.unwrap().stdout), made);
        }
    }

    #[test]
    fn what_a_directive_cannot_hold_is_refused() {
        let of = |out: &str, wants: &Wants| {
            Scripts::of(
                Path::new("/b"),
                Path::new(out),
                Path::new("/f"),
                &["a"],
                wants,
            )
            .unwrap_err()
            .to_string()
        };
        assert_eq!(
            of("/x%a", &Wants::default()),
            "/x%a cannot stand in a Slurm script; name a folder without line breaks, quotes and percent signs"
        );
        let wants = Wants {
            partition: Some("gpu\n#SBATCH --uid=0".into()),
            ..Wants::default()
        };
        let two = Wants {
            options: vec!["--mem=4G --uid=0".into()],
            ..Wants::default()
        };
        assert_eq!(
            of("/x", &two),
            "--sbatch is `--mem=4G --uid=0`; expected one option as sbatch takes it, such as --sbatch=--account=lab"
        );
        assert_eq!(
            of("/x", &wants),
            "--partition is `gpu\n#SBATCH --uid=0`; expected one word, as sbatch takes it"
        );
    }
}
