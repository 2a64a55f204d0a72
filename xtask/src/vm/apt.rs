//! A private apt: its own lists, archives and sources, none of the host's
//! package state, so that it needs no root and changes nothing outside its
//! folder. Signatures are verified as ever.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail, ensure};

/// Told how far a step is, from 0 to 100.
pub(super) type Progress<'a> = &'a dyn Fn(f64);

/// An apt configuration below one folder.
pub(super) struct Apt {
    dir: PathBuf,
    configuration: PathBuf,
}

/// What a private apt looks for, and whom it trusts.
pub(super) struct Sources<'a> {
    pub(super) mirror: &'a str,
    pub(super) suites: &'a [&'a str],
    pub(super) keyring: &'a Path,
}

impl Apt {
    /// An apt below `dir` with `sources`; without, with those of the host.
    pub(super) fn new(dir: &Path, sources: Option<&Sources<'_>>) -> Result<Self> {
        for part in [
            "lists/partial",
            "cache/archives/partial",
            "sources",
            "preferences",
        ] {
            let part = dir.join(part);
            fs::create_dir_all(&part).with_context(|| format!("create {}", part.display()))?;
        }
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            anyhow::Ok(path)
        };
        write("status", String::new())?;
        let etc = match sources {
            None => String::new(),
            Some(sources) => {
                let list: String = sources
                    .suites
                    .iter()
                    .map(|suite| sources.line(suite))
                    .collect();
                write("sources.list", list)?;
                let at = dir.display();
                format!(
                    "Dir::Etc::sourcelist \"{at}/sources.list\";\n\
                     Dir::Etc::sourceparts \"{at}/sources\";\n\
                     Dir::Etc::preferences \"{at}/status\";\n\
                     Dir::Etc::preferencesparts \"{at}/preferences\";\n\
                     #clear APT::Default-Release;\n"
                )
            }
        };
        let configuration = write("apt.conf", configuration(dir, &etc))?;
        Ok(Self {
            dir: dir.into(),
            configuration,
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // Read after the host's own configuration, which is kept: it may name
        // a proxy.
        command
            .arg("-c")
            .arg(&self.configuration)
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }

    /// Brings the package lists up to date; fails unless each of them came
    /// and its signature was good.
    pub(super) fn update(&self, progress: Progress<'_>) -> Result<()> {
        let mut command = self.command("apt-get");
        command.args(["-q", "-o", "APT::Update::Error-Mode=any", "update"]);
        watch(command, progress).context("update the package lists")
    }

    /// Downloads `packages` and everything they depend on, taking them from
    /// `suite` where it has them.
    pub(super) fn download_closure(
        &self,
        suite: &str,
        packages: &[&str],
        progress: Progress<'_>,
    ) -> Result<Vec<PathBuf>> {
        let mut command = self.command("apt-get");
        command
            .args(["-q", "-y", "-t", suite, "--download-only", "install"])
            .args(packages);
        watch(command, progress).with_context(|| format!("download {}", packages.join(", ")))?;
        archives(&self.dir.join("cache/archives"))
    }

    /// Downloads `packages` alone, into `into`.
    pub(super) fn download(
        &self,
        packages: &[String],
        into: &Path,
        progress: Progress<'_>,
    ) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(into).with_context(|| format!("create {}", into.display()))?;
        let mut command = self.command("apt-get");
        command
            .args(["-q", "download"])
            .args(packages)
            .current_dir(into);
        watch(command, progress).with_context(|| format!("download {}", packages.join(", ")))?;
        archives(into)
    }

    /// Name and version of `package` and of everything it depends on, as
    /// `suite` would install them.
    pub(super) fn closure(&self, suite: &str, package: &str) -> Result<Vec<(String, String)>> {
        let mut command = self.command("apt-get");
        command.args(["-q", "-t", suite, "--simulate", "install", package]);
        let text = output(command).with_context(|| format!("look {package} up in {suite}"))?;
        let mut found: Vec<_> = text.lines().filter_map(installed).collect();
        found.sort();
        ensure!(
            !found.is_empty(),
            "apt-get would install nothing for {package}"
        );
        Ok(found)
    }

    /// Value of `field` of the package `suite` would install.
    pub(super) fn field(&self, suite: &str, package: &str, field: &str) -> Result<String> {
        let mut command = self.command("apt-cache");
        command
            .args(["-o", &format!("APT::Default-Release={suite}")])
            .args(["show", "--no-all-versions", package]);
        let record = output(command).with_context(|| format!("look {package} up in {suite}"))?;
        let start = format!("{field}: ");
        record
            .lines()
            .find_map(|line| line.strip_prefix(&start))
            .map(str::to_owned)
            .with_context(|| format!("{package} of {suite} has no field {field}"))
    }

    /// Repositories with package lists: origin, label and address.
    pub(super) fn repositories(&self) -> Result<Vec<Repository>> {
        let mut command = self.command("apt-get");
        command
            .args([
                "indextargets",
                "--format",
                "$(ORIGIN)\t$(LABEL)\t$(REPO_URI)",
            ])
            .arg("Created-By: Packages");
        Ok(output(command)?
            .lines()
            .filter_map(Repository::parse)
            .collect())
    }
}

impl Sources<'_> {
    fn line(&self, suite: &str) -> String {
        let keyring = self.keyring.display();
        let mirror = self.mirror;
        format!("deb [arch=amd64 target=Packages signed-by={keyring}] {mirror} {suite} main\n")
    }
}

/// `indextargets` of the host's own apt; empty where it has no lists.
pub(super) fn host_repositories() -> Result<Vec<Repository>> {
    let mut command = Command::new("apt-get");
    command
        .args([
            "indextargets",
            "--format",
            "$(ORIGIN)\t$(LABEL)\t$(REPO_URI)",
        ])
        .arg("Created-By: Packages")
        .stdin(Stdio::null());
    Ok(output(command)?
        .lines()
        .filter_map(Repository::parse)
        .collect())
}

/// A repository as `apt-get indextargets` tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Repository {
    origin: String,
    label: String,
    pub(super) address: String,
}

impl Repository {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split('\t').map(str::to_owned);
        Some(Self {
            origin: fields.next()?,
            label: fields.next()?,
            address: fields.next()?,
        })
    }

    /// Whether this is Debian's main archive (not security, not a third party).
    pub(super) fn is_debian(&self) -> bool {
        self.origin == "Debian" && self.label == "Debian"
    }
}

fn configuration(dir: &Path, etc: &str) -> String {
    let at = dir.display();
    format!(
        "Dir::State \"{at}\";\n\
         Dir::State::lists \"{at}/lists\";\n\
         Dir::State::status \"{at}/status\";\n\
         Dir::State::extended_states \"{at}/extended_states\";\n\
         Dir::Cache \"{at}/cache\";\n\
         Dir::Cache::archives \"{at}/cache/archives\";\n\
         Dir::Log \"{at}\";\n\
         {etc}\
         APT::Architecture \"amd64\";\n\
         #clear APT::Architectures;\n\
         APT::Architectures {{ \"amd64\"; }};\n\
         APT::Install-Recommends \"false\";\n\
         APT::Install-Suggests \"false\";\n\
         APT::Get::AllowUnauthenticated \"false\";\n\
         APT::Get::List-Cleanup \"false\";\n\
         Acquire::AllowInsecureRepositories \"false\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"3\";\n\
         // The account apt drops to could not enter a private folder.\n\
         APT::Sandbox::User \"root\";\n\
         // Hooks of the host act on the host's folders.\n\
         #clear APT::Update::Pre-Invoke;\n\
         #clear APT::Update::Post-Invoke;\n\
         #clear APT::Update::Post-Invoke-Success;\n\
         #clear DPkg::Pre-Install-Pkgs;\n\
         #clear DPkg::Pre-Invoke;\n\
         #clear DPkg::Post-Invoke;\n"
    )
}

fn archives(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("read {}", dir.display()))?
            .path();
        if path.extension() == Some(OsStr::new("deb")) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Unpacks `archive` below `root`, without running anything of it.
pub(super) fn unpack(archive: &Path, root: &Path) -> Result<()> {
    let mut command = Command::new("dpkg-deb");
    command.arg("-x").arg(archive).arg(root);
    output(command)
        .with_context(|| format!("unpack {}", archive.display()))
        .map(drop)
}

/// Name and version of the package in `archive`.
pub(super) fn identity(archive: &Path) -> Result<(String, String)> {
    let mut command = Command::new("dpkg-deb");
    command
        .args(["-W", "--showformat", "${Package}\t${Version}"])
        .arg(archive);
    let text = output(command).with_context(|| format!("read {}", archive.display()))?;
    let (name, version) = text
        .split_once('\t')
        .context("dpkg-deb printed no version")?;
    Ok((name.to_owned(), version.trim().to_owned()))
}

/// Runs a command to its end and returns its standard output.
fn output(mut command: Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| missing(&program))?;
    if !output.status.success() {
        bail!(
            "{program}: {}: {}",
            output.status,
            complaint(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs an apt-get that tells of its progress on standard output.
fn watch(mut command: Command, progress: Progress<'_>) -> Result<()> {
    command
        .args(["-o", "APT::Status-Fd=1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| missing("apt-get"))?;
    let stdout = child.stdout.take().context("no standard output")?;
    let mut stderr = child.stderr.take().context("no standard error")?;
    let complaints = thread::spawn(move || {
        let mut text = Vec::new();
        // What could be read of it is all there is to show.
        let _ = stderr.read_to_end(&mut text);
        text
    });
    for line in BufReader::new(stdout).lines() {
        if let Some(percent) = percentage(&line.context("read from apt-get")?) {
            progress(percent);
        }
    }
    let status = child.wait().context("wait for apt-get")?;
    let complaints = complaints.join().unwrap_or_default();
    if !status.success() {
        bail!("apt-get: {status}: {}", complaint(&complaints));
    }
    Ok(())
}

/// `dlstatus:ITEM:PERCENT:TEXT`.
fn percentage(line: &str) -> Option<f64> {
    line.strip_prefix("dlstatus:")?
        .split(':')
        .nth(1)?
        .parse()
        .ok()
}

/// `Inst NAME (VERSION ARCHIVE [ARCHITECTURE])`.
fn installed(line: &str) -> Option<(String, String)> {
    let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
    let version = rest.split([' ', ')']).next()?;
    Some((name.to_owned(), version.to_owned()))
}

/// The lines of apt's standard error that say something.
fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("E:")).collect();
    if errors.is_empty() {
        text.trim().to_owned()
    } else {
        errors.join("; ")
    }
}

fn missing(program: &str) -> String {
    format!(
        "{program} does not run here: fetching takes packages of Debian with apt-get and \
         dpkg-deb. On another system name an own QEMU (10.1.1 or later, with vfio-user-pci), \
         kernel and module folder: cargo xtask vm fetch --qemu PATH --kernel PATH --modules DIR"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debians_main_archive_is_taken_for_a_mirror() {
        let lines = "Debian\tDebian\thttp://a/debian/\n\
                     Debian\tDebian-Security\thttp://a/security/\n\
                     other\tother\thttp://b/\nbroken";
        let found: Vec<_> = lines.lines().filter_map(Repository::parse).collect();
        assert_eq!(found.len(), 3);
        let debian: Vec<_> = found.iter().filter(|r| r.is_debian()).collect();
        assert_eq!(debian.len(), 1);
        assert_eq!(debian[0].address, "http://a/debian/");
    }

    #[test]
    fn what_would_be_installed_is_read_with_its_version() {
        let line = "Inst libc6 (1:2.41-12 Debian:13.2/stable [amd64]) []";
        assert_eq!(installed(line), Some(("libc6".into(), "1:2.41-12".into())));
        assert_eq!(installed("Conf libc6 (1:2.41-12 Debian)"), None);
        assert_eq!(installed("Inst broken"), None);
    }

    #[test]
    fn progress_lines_are_told_from_the_rest() {
        assert_eq!(
            percentage("dlstatus:3:41.5:Retrieving file 3 of 7"),
            Some(41.5)
        );
        assert_eq!(percentage("Get:1 something"), None);
        assert_eq!(percentage("dlstatus:x"), None);
    }

    #[test]
    fn errors_are_preferred_to_warnings() {
        assert_eq!(complaint(b"W: a\nE: b\nE: c\n"), "E: b; E: c");
        assert_eq!(complaint(b"plain\n"), "plain");
    }

    #[test]
    fn a_source_line_names_its_keyring_and_keeps_verification() {
        let temp = tempfile::tempdir().unwrap();
        let sources = Sources {
            mirror: "http://m/d",
            suites: &["a", "b"],
            keyring: Path::new("/k.gpg"),
        };
        Apt::new(temp.path(), Some(&sources)).unwrap();
        let list = fs::read_to_string(temp.path().join("sources.list")).unwrap();
        assert_eq!(list.lines().count(), 2);
        assert!(list.lines().all(|line| line.contains("signed-by=/k.gpg")));
        let conf = fs::read_to_string(temp.path().join("apt.conf")).unwrap();
        assert!(conf.contains("AllowInsecureRepositories \"false\""));
    }
}
