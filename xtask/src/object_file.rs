//! What becomes of the linker's output before it is committed.

use anyhow::{Context, Result, bail};
use object::build::elf::{Builder, SectionData};

/// Removes DWARF, which nobody reads from a BPF object and which is nine tenths
/// of it. BTF, symbols and relocations stay.
pub fn strip_dwarf(object: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Builder::read(object).context("the linker's output is not an ELF object")?;
    for section in &mut elf.sections {
        let name = section.name.to_string();
        if is_dwarf(&name) {
            section.delete = true;
        }
    }
    // LLVM keeps both kinds of names in one table, the writer wants two.
    let shared = !elf
        .sections
        .iter()
        .any(|section| matches!(section.data, SectionData::SectionString));
    if shared {
        let names = elf.sections.add();
        names.name = ".shstrtab".into();
        names.sh_type = object::elf::SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    elf.delete_orphans();
    let mut stripped = Vec::new();
    elf.write(&mut stripped)
        .context("the object cannot be written")?;
    Ok(stripped)
}

fn is_dwarf(section: &str) -> bool {
    section.starts_with(".debug_") || section.starts_with(".rel.debug_")
}

/// Refuses an object that the kernel would refuse, or that tells where it was
/// built. `private` are the paths that must not be in it.
pub fn verify(object: &[u8], private: &[String]) -> Result<()> {
    let elf = Builder::read(object).context("the object is not an ELF object")?;
    for wanted in [".BTF", ".BTF.ext"] {
        if !elf
            .sections
            .iter()
            .any(|section| &*section.name == wanted.as_bytes())
        {
            bail!("the object has no {wanted} section: it was built without debug information");
        }
    }
    let panics: Vec<_> = elf
        .symbols
        .iter()
        .map(|symbol| symbol.name.to_string())
        .filter(|name| name.contains("panic"))
        .collect();
    if !panics.is_empty() {
        bail!(
            "the object has a panic path, which no kernel accepts: {}. Look for slice indexing, \
             a division by a variable, or an unwrap",
            panics.join(", ")
        );
    }
    if let Some(path) = private
        .iter()
        .find(|path| contains(object, path.as_bytes()))
    {
        bail!("the object contains the path {path} of this machine");
    }
    Ok(())
}

/// Whether `needle` stands somewhere in `bytes`.
pub fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && bytes.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::{Endianness, elf};

    fn object(sections: &[(&str, &str)], symbol: &str) -> Vec<u8> {
        let mut builder = Builder::new(Endianness::Little, true);
        builder.header.e_type = elf::ET_REL;
        builder.header.e_machine = elf::EM_BPF;
        let names = [
            (".shstrtab", SectionData::SectionString),
            (".strtab", SectionData::String),
        ];
        for (name, data) in names {
            let section = builder.sections.add();
            section.name = name.into();
            section.sh_type = elf::SHT_STRTAB;
            section.data = data;
        }
        let section = builder.sections.add();
        section.name = ".symtab".into();
        section.sh_type = elf::SHT_SYMTAB;
        section.data = SectionData::Symbol;
        for (name, content) in sections {
            let section = builder.sections.add();
            section.name = (*name).into();
            section.sh_type = elf::SHT_PROGBITS;
            section.data = SectionData::Data(content.as_bytes().into());
        }
        let added = builder.symbols.add();
        added.name = symbol.into();
        added.st_shndx = elf::SHN_ABS;
        builder.set_section_sizes();
        let mut bytes = Vec::new();
        builder.write(&mut bytes).unwrap();
        bytes
    }

    const BTF: [(&str, &str); 2] = [(".BTF", "types"), (".BTF.ext", "lines")];

    #[test]
    fn dwarf_goes_and_btf_stays() {
        let full = object(
            &[BTF[0], BTF[1], (".debug_info", "/somewhere/main.rs")],
            "shaper_ingress",
        );
        assert!(contains(&full, b"/somewhere"));
        let stripped = strip_dwarf(&full).unwrap();
        assert!(!contains(&stripped, b"/somewhere"));
        assert!(contains(&stripped, b"types") && contains(&stripped, b"shaper_ingress"));
        verify(&stripped, &["/somewhere".to_owned()]).unwrap();
    }

    #[test]
    fn refuses_a_panic_path() {
        let error = verify(&object(&BTF, "core9panicking"), &[]).unwrap_err();
        assert!(error.to_string().contains("core9panicking"), "{error}");
    }

    #[test]
    fn refuses_a_private_path() {
        let sections = [(".BTF", "/somewhere/main.rs"), BTF[1]];
        let private = ["/elsewhere".to_owned(), "/somewhere".to_owned()];
        let error = verify(&object(&sections, "f"), &private).unwrap_err();
        assert!(error.to_string().contains("/somewhere"), "{error}");
    }

    #[test]
    fn refuses_an_object_without_btf() {
        let error = verify(&object(&[BTF[0]], "f"), &[]).unwrap_err();
        assert!(error.to_string().contains(".BTF.ext"), "{error}");
    }
}
