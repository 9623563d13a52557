//! `homeward pki`: a certificate authority for those who have none.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::pki::{Authority, Usages};

/// What `homeward pki` takes.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes an authority: ca.pem and ca-key.pem. Nothing is overwritten.
    Init {
        /// Folder of the authority; made when it is not there.
        #[arg(long, value_name = "DIR")]
        folder: PathBuf,
        /// Name of the authority in its certificate.
        #[arg(long, default_value = "Homeward")]
        name: String,
    },
    /// Issues a certificate: NAME.pem and NAME-key.pem beside the authority. Nothing is overwritten.
    Issue {
        /// Folder of the authority.
        #[arg(long, value_name = "DIR")]
        folder: PathBuf,
        /// What the certificate is for: an agent serves and connects, the operator and people only connect.
        #[arg(long = "for", value_enum)]
        usage: For,
        /// One more DNS name or IP address of an agent; can be given several times or with commas. None when absent.
        #[arg(long = "san", value_delimiter = ',', value_name = "NAME")]
        sans: Vec<String>,
        /// Name in the certificate: the host of an agent, or who connects.
        name: String,
    },
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum For {
    /// The agent of a host.
    Agent,
    /// The operator, or a person with `homeward vm`.
    Operator,
}

/// Does what the arguments say.
pub fn pki(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command {
        Command::Init { folder, name } => {
            Authority::create(&folder, &name)?;
            println!("{}", folder.join("ca.pem").display());
        }
        Command::Issue {
            folder,
            usage,
            sans,
            name,
        } => {
            let usages = match usage {
                For::Agent => Usages::ServerAndClient,
                For::Operator => Usages::Client,
            };
            let issued = Authority::load(&folder)?.issue(&name, &sans, usages)?;
            println!("{}", issued.certificate.display());
            println!("{}", issued.key.display());
        }
    }
    Ok(())
}
