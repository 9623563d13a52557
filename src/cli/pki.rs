//! `homeward pki`: a certificate authority and certificates, for those who have none.

use std::path::PathBuf;

use crate::pki::{Authority, Usages};

/// What `homeward pki` does.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Makes an authority: ca.pem and ca-key.pem. Nothing is overwritten.
    Init(Init),
    /// Issues NAME.pem and NAME-key.pem. Nothing is overwritten.
    Issue(Issue),
}

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
pub struct Init {
    /// Folder of the authority; made if it is not there.
    #[arg(long, value_name = "DIR", default_value = "pki")]
    dir: PathBuf,
    /// Name of the authority, as it stands in certificates.
    #[arg(long, default_value = "Homeward")]
    name: String,
}

/// Arguments of `issue`.
#[derive(Debug, clap::Args)]
pub struct Issue {
    /// Folder of the authority.
    #[arg(long, value_name = "DIR", default_value = "pki")]
    dir: PathBuf,
    /// For which side: an agent serves and connects, an operator only connects.
    #[arg(long = "for", value_enum)]
    side: Side,
    /// More names or addresses under which an agent is reached; can be given several times.
    #[arg(long = "san", value_name = "NAME-OR-ADDRESS")]
    sans: Vec<String>,
    /// The name that the other side allows: an agent's host name, or the operator's.
    name: String,
}

/// For whom a certificate is.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Side {
    /// An agent.
    Agent,
    /// The operator, or a person.
    Operator,
}

/// Does it, and says which files were made.
pub fn pki(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Init(init) => {
            Authority::create(&init.dir, &init.name)?;
            println!("{}", init.dir.join("ca.pem").display());
            println!("{}", init.dir.join("ca-key.pem").display());
            eprintln!(
                "Keep ca-key.pem off-line once every certificate is issued: whoever has it can speak as any agent or operator."
            );
        }
        Command::Issue(issue) => {
            let usages = match issue.side {
                Side::Agent => Usages::ServerAndClient,
                Side::Operator => Usages::Client,
            };
            let issued = Authority::load(&issue.dir)?.issue(&issue.name, &issue.sans, usages)?;
            println!("{}", issued.certificate.display());
            println!("{}", issued.key.display());
        }
    }
    Ok(())
}
