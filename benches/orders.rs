//! How a comparison's worker talks: an order a line on standard input, an answer a line on standard output.

use std::{
    io::{self, BufRead as _, Write as _},
    time::Instant,
};

use anyhow::Result;

/// Answers each order until the input ends. An order's words are separated by tabs; what goes wrong is answered as
/// "error" and the sentence.
///
/// # Errors
///
/// If the standard streams can't be read or written.
pub fn serve(mut answer: impl FnMut(&[&str]) -> Result<String>) -> io::Result<()> {
    for order in io::stdin().lock().lines() {
        let order = order?;
        let words: Vec<&str> = order.split('\t').collect();
        let line = answer(&words).unwrap_or_else(|error| format!("error {error:#}"));
        let mut out = io::stdout().lock();
        writeln!(out, "{}", line.replace('\n', " "))?;
        out.flush()?;
    }
    Ok(())
}

/// The times of each iteration as an answer: "ms" and milliseconds on the wall, then, where the system tells it, "cpu"
/// and milliseconds of the whole process, all its threads together.
///
/// # Errors
///
/// The iteration's.
pub fn timed(count: usize, mut iteration: impl FnMut() -> Result<()>) -> Result<String> {
    let (mut wall, mut cpu) = (vec!["ms".to_owned()], vec!["cpu".to_owned()]);
    for _ in 0..count {
        let (used, start) = (cpu_ms(), Instant::now());
        iteration()?;
        wall.push((start.elapsed().as_secs_f64() * 1e3).to_string());
        if let (Some(before), Some(after)) = (used, cpu_ms()) {
            cpu.push((after - before).to_string());
        }
    }
    if cpu.len() == wall.len() {
        wall.append(&mut cpu);
    }
    Ok(wall.join(" "))
}

/// The processor time this process has used.
#[cfg(unix)]
#[allow(clippy::unnecessary_wraps)] // elsewhere there is none
fn cpu_ms() -> Option<f64> {
    use rustix::time::{ClockId, clock_gettime};
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Some(used.tv_sec as f64 * 1e3 + used.tv_nsec as f64 / 1e6)
}

#[cfg(not(unix))]
fn cpu_ms() -> Option<f64> {
    None
}

#[cfg(test)]
mod tests {
    use std::{thread::sleep, time::Duration};

    use super::*;

    #[test]
    fn each_iteration_has_its_times() {
        let answer = timed(3, || {
            sleep(Duration::from_millis(2));
            Ok(())
        })
        .unwrap();
        let numbers = |part: &str| -> Vec<f64> {
            let words = part.split_whitespace();
            words.map(|word| word.parse().unwrap()).collect()
        };
        let (wall, cpu) = answer.split_once(" cpu ").unwrap_or((&answer, "0 0 0"));
        let wall = numbers(wall.strip_prefix("ms ").unwrap());
        assert_eq!((wall.len(), numbers(cpu).len()), (3, 3));
        assert!(wall.iter().all(|&ms| ms >= 2.0), "{wall:?}");
    }

    #[test]
    fn an_iteration_that_fails_ends_the_measurement() {
        let error = timed(2, || anyhow::bail!("out of ink")).unwrap_err();
        assert_eq!(error.to_string(), "out of ink");
    }
}
