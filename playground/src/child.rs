//! Child processes that do not outlive this one.
//!
//! A child has a process group of its own and is killed with it when its [`Child`] is dropped. Should this process die
//! without dropping anything, the kernel kills the child. It does so when the *thread* that started it ends, so every
//! child is started from one thread that lives as long as the process.

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Command, ExitStatus},
    sync::{OnceLock, mpsc},
    time::Duration,
};

use rustix::process::{Pid, Signal};

type Request = (Command, mpsc::Sender<io::Result<std::process::Child>>);

/// A running child process, killed with its process group when dropped.
#[derive(Debug)]
pub struct Child {
    inner: std::process::Child,
    group: Pid,
}

impl Child {
    /// Starts `command` in a process group of its own.
    ///
    /// # Errors
    ///
    /// What the system says when the program cannot be started.
    pub fn spawn(command: Command) -> io::Result<Self> {
        let (answer, answered) = mpsc::channel();
        spawner()
            .send((command, answer))
            .map_err(|_| io::Error::other("the spawner thread has ended"))?;
        let inner = answered
            .recv()
            .map_err(|_| io::Error::other("the spawner thread has ended"))??;
        let group = Pid::from_child(&inner);
        Ok(Self { inner, group })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.inner.id()
    }

    /// How it ended, or nothing while it runs.
    ///
    /// # Errors
    ///
    /// What the system says when it cannot be asked.
    pub fn exit_status(&mut self) -> io::Result<Option<ExitStatus>> {
        self.inner.try_wait()
    }

    /// Sends `signal` to the child and everything it started in its process group.
    ///
    /// # Errors
    ///
    /// What the system says, for example that the process is gone.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(rustix::process::kill_process_group(self.group, signal)?)
    }

    /// Kills the child and waits until it is gone.
    pub fn kill(&mut self) {
        // Once reaped, the number may belong to somebody else.
        if matches!(self.inner.try_wait(), Ok(Some(_))) {
            return;
        }
        let _ = self.signal(Signal::KILL);
        let _ = self.inner.wait();
    }

    /// Waits until the child has ended by itself; nothing when it has not after `limit`.
    ///
    /// # Errors
    ///
    /// What the system says when the child cannot be asked.
    pub async fn wait_for(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            if let Some(status) = self.inner.try_wait()? {
                return Ok(Some(status));
            }
            if tokio::time::Instant::now() >= deadline {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawner() -> &'static mpsc::Sender<Request> {
    static SPAWNER: OnceLock<mpsc::Sender<Request>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (requests, received) = mpsc::channel::<Request>();
        std::thread::spawn(move || {
            for (command, answer) in received {
                let _ = answer.send(start(command));
            }
        });
        requests
    })
}

#[allow(
    unsafe_code,
    reason = "the death signal can only be set between fork and exec"
)]
fn start(mut command: Command) -> io::Result<std::process::Child> {
    let parent = rustix::process::getpid();
    command.process_group(0);
    // SAFETY: the closure runs between fork and exec and only makes two system calls, through rustix, which neither
    // allocate nor take a lock.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the line above.
            if rustix::process::getppid() == Some(parent) {
                Ok(())
            } else {
                Err(rustix::io::Errno::SRCH.into())
            }
        });
    }
    command.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Child {
        let mut command = Command::new("sleep");
        command.arg("600");
        Child::spawn(command).unwrap()
    }

    fn alive(id: u32) -> bool {
        std::path::Path::new(&format!("/proc/{id}")).exists()
    }

    #[test]
    fn a_dropped_child_is_gone() {
        let child = sleeper();
        let id = child.id();
        assert!(alive(id));
        drop(child);
        assert!(!alive(id));
    }

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let mut child = std::thread::spawn(sleeper).join().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert!(child.exit_status().unwrap().is_none());
    }

    #[test]
    fn a_program_that_does_not_exist_is_an_error() {
        let error = Child::spawn(Command::new("/nowhere/program")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    /// Plays the parent in the test below.
    #[test]
    #[ignore = "run by the test below, in a process of its own"]
    fn parent_that_will_be_killed() {
        let child = sleeper();
        println!("child={}", child.id());
        std::thread::sleep(Duration::from_mins(1));
    }

    #[test]
    fn a_child_does_not_outlive_a_killed_parent() {
        use std::io::{BufRead as _, BufReader};
        let mut parent = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--nocapture", "--exact"])
            .arg("child::tests::parent_that_will_be_killed")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(parent.stdout.take().unwrap());
        let id = output
            .lines()
            .find_map(|line| line.unwrap().rsplit_once("child=")?.1.parse::<u32>().ok())
            .unwrap();
        assert!(alive(id));
        parent.kill().unwrap();
        parent.wait().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while alive(id) {
            assert!(std::time::Instant::now() < deadline, "the child lives on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
