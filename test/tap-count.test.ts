import t from 'tap'
import { TapCount } from './tap-count.ts'

const rows = [
  { why: 'leaves at the top', tap: 'TAP version 14\nok 1 - a\nnot ok 2 - b\n1..2', count: [1, 1, 0] },
  {
    why: 'a closing point repeats its children',
    tap: '    ok 1 - a\n    ok 2 - b\n    1..2\nok 1 - file # time=3ms',
    count: [2, 0, 0],
  },
  {
    why: 'a failure counts once, at its leaf',
    tap: '        not ok 1 - a\n    not ok 1 - inner # time=1ms\n    ok 2 - c\nnot ok 1 - file # time=3ms',
    count: [1, 1, 0],
  },
  { why: 'a file that crashes after good points', tap: '    ok 1 - a\nnot ok 1 - file # time=1s', count: [1, 1, 0] },
  { why: 'a file that crashes at once', tap: 'not ok 1 - file # time=1s', count: [0, 1, 0] },
  {
    why: 'skip and todo, with and without a reason',
    tap: 'ok 1 - a # SKIP needs root\nok 2 - b # SKIP\nnot ok 3 - c # TODO',
    count: [0, 0, 3],
  },
  { why: 'a skipped subtest', tap: '    1..0 # SKIP later\nok 1 - a # SKIP later', count: [0, 0, 1] },
  {
    why: 'a diagnosis that quotes points',
    tap: 'not ok 1 - a\n  ---\n  diff: |\n    ok 1 - not a point\n    not ok 2 - neither\n  ...\nok 2 - b',
    count: [1, 1, 0],
  },
  {
    why: 'siblings are not mixed up',
    tap: '    not ok 1 - a\nnot ok 1 - f # time=1ms\n    ok 1 - b\nnot ok 2 - g # time=1ms',
    count: [1, 2, 0],
  },
  { why: 'words that only begin like a point', tap: 'okay\nnot okay\n# ok 1 - comment\n1..0', count: [0, 0, 0] },
] as const

t.test('the summary says what the stream says', async (t) => {
  for (const { why, tap, count } of rows) {
    const counter = new TapCount()
    for (const line of tap.split('\n')) counter.line(line)
    const { passed, failed, skipped } = counter.count
    t.same([passed, failed, skipped], count, why)
  }
})

const HANGS = `# Subtest: outer
    ok 1 - fine
    # Subtest: inner
        not ok 1 - should be equal
          ---
          at:
            fileName: test/x.test.ts
            lineNumber: 7
          ...
    not ok 2 - inner # time=3ms
      ---
      at:
        lineNumber: 2
      ...
    # Subtest: waits`

t.test('a failure in short: its subtests, its name and its line; and what runs when nothing more comes', async (t) => {
  const counter = new TapCount()
  for (const line of HANGS.split('\n')) counter.line(line)
  t.same(counter.running, ['outer', 'waits'], 'what hangs')
  for (const line of [
    '        not ok 1 - timeout!',
    '    not ok 3 - waits # time=3s',
    'not ok 1 - outer # time=3s',
    '1..1',
  ])
    counter.line(line)
  t.same(counter.failures, [
    { within: ['outer', 'inner'], name: 'should be equal', line: 7 },
    { within: ['outer', 'waits'], name: 'timeout!' },
  ])
  t.same(counter.running, [], 'nothing runs any more')
  t.same(counter.count, { passed: 1, failed: 2, skipped: 0 })
})
