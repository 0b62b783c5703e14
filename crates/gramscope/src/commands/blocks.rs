//! `gramscope blocks`: the block structure of a map.

use gramscope_study::Saved;
use gramscope_study::blocks::{self, Block, BlocksInfo, WithinMap};

use crate::arguments::BlocksArguments;
use crate::console::Console;

/// Finds the blocks of the map, writes them, and says a line of each.
pub(crate) fn run(arguments: &BlocksArguments, console: &Console) -> anyhow::Result<()> {
    BlocksInfo::check(&arguments.out)?;
    let (map, origin) = WithinMap::read(&arguments.map)?;
    let info = blocks::measure(&map, &origin)?;
    blocks::write(&arguments.out, &map, &info)?;
    let (model, found, layers) = (&origin.model, &info.found, map.layers().len());
    for block in &found.blocks {
        console.result(&describe(block));
    }
    let count = match found.blocks.len() {
        0 => "no block".to_owned(),
        1 => "1 block".to_owned(),
        count => format!("{count} blocks"),
    };
    let dir = arguments.out.display();
    console.result(&format!("{model}: {count} in {layers} layers, score {:.3} -> {dir}", found.score));
    Ok(())
}

fn describe(block: &Block) -> String {
    let Block { first, last, first_name, last_name, mean_cka, margin, contrast, share, .. } = block;
    let block = format!("block of layers {first} to {last}, {first_name} to {last_name}");
    if *share == 1.0 {
        return format!(
            "{block}: the whole network, mean CKA {mean_cka:.3}; there is nothing beside it to stand out from"
        );
    }
    let percent = 100.0 * share;
    format!(
        "{block}: {percent:.1}% of the network, mean CKA {mean_cka:.3}, {margin:.3} above its surroundings, contrast \
         {contrast:.2}"
    )
}
