"""Configs of streams: written as they are, or refused before training."""

import configs
import pytest
import tiny

from mtl_jax.config import config as config_lib


def test_streams_survive_json_and_only_they_are_written():
  stream = tiny.make('stream')
  written = config_lib.to_dict(stream)
  assert config_lib.from_dict(tiny.json.loads(tiny.json.dumps(written))
                              ) == stream
  plain = config_lib.to_dict(config_lib.from_dict(configs.small()))
  assert 'stream' not in plain['phases']['a']


@pytest.mark.parametrize('changes, text', [
    ({'phases__a__tasks_at_once': 2}, 'phase a: a stream is learned one mask'),
    ({'phases__a__repeats': 2}, 'no tasks_at_once or repeats'),
    ({'phases__a__options': {'transfer': True}},
     'a stream is learned one mask at a time'),
    ({'phases__b__stream': {}, 'phases__a__stream': None},
     'phase b: a stream is learned one mask at a time'),
    ({'phases__a__stream': {'every': 0}}, 'every and passes must be at least'),
    ({'phases__a__stream': {'min_masks': 1}}, 'min_masks at least 2'),
    ({'phases__a__stream': {'min_masks': 10 ** 9}}, 'min_masks is 1000000000; '
     'it must be at most 10,000'),
    ({'phases__a__stream': {'passes': 10 ** 9}}, 'passes is 1000000000; it'),
    ({'phases__a__stream': {'tolerance': 0.}}, 'tolerance must be above 0'),
    ({'phases__a__stream': {'budget': -1}}, 'budget not negative'),
    ({'phases__a__stream': {'objective': 'H'}}, "unknown objective 'H'"),
    ({'phases__a__stream': {'evry': 3}},
     'unknown key phases.a.stream.evry .did you mean: every'),
    ({}, 'phase b: its basis cannot come from phase a: how many')])
def test_streams_that_are_refused(changes, text):
  fields = configs.small(**{'phases__a__stream': {}} | changes)
  with pytest.raises(ValueError, match=text):
    configs.check(fields)


@pytest.mark.parametrize('changes, text', [
    ({'backbone__outputs': 9}, '10 classes but the backbone has 9 outputs'),
    ({'phases__stream__tasks': (0, 99)}, 'but the suite permuted-digits has 7'),
    ({'phases__stream__stream__objective': 'superfluous',
      'backbone__outputs': 10}, 'stream: the objective superfluous needs')])
def test_streams_that_do_not_fit_are_refused_first(tmp_path, changes, text):
  config = tiny.make('stream', **changes)
  with pytest.raises(ValueError, match=text):
    tiny.learn(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
