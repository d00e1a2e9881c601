"""Stage `toy_games`: two minimax games with and without historical averaging (Improved GAN, section 3.3)."""

from pathlib import Path

from pipeline.core import params, records, stage
from pipeline.training import toy_games


def main(params_file: Path, out_trajectories: Path, out_sweep: Path) -> None:
    """Write paths of both games to OUT_TRAJECTORIES; final distances over strengths and step sizes to OUT_SWEEP."""
    config = params.load(params_file, toy_games.ToyGames, own="toy_games")
    paths, swept = toy_games.trajectories(config), toy_games.sweep(config)
    stage.counted(runs=len(swept), steps=len(swept) * config.n_steps)
    records.write_parquet(out_trajectories, paths)
    records.write_parquet(out_sweep, swept)


if __name__ == "__main__":
    stage.run(main)
