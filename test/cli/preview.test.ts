import t from 'tap'
import { differenceLines } from '../../src/cli/preview.ts'

t.test('a dry run shows what goes and what comes', async (t) => {
  const rows: [difference: Parameters<typeof differenceLines>[0], lines: string[]][] = [
    [{ keys: ['memory'], before: 64, after: 128 }, ['memory: - 64', 'memory: + 128']],
    [{ keys: ['check'], after: { kind: 'tcp' } }, ['check: + {"kind":"tcp"}']],
    [{ keys: ['lease_seconds'], before: 20 }, ['lease_seconds: - 20']],
    [
      { keys: ['environment'], before: ['A=1', 'B=2'], after: ['B=2', 'C=3'] },
      ['environment: - A=1', 'environment: + C=3'],
    ],
    [{ keys: ['cmd'], before: ['a', 'b'], after: ['a', 'c'] }, ['cmd: - ["a","b"]', 'cmd: + ["a","c"]']],
    [{ keys: ['arch'], before: ['a', 'b'], after: ['b', 'a'] }, ['arch: - a', 'arch: - b', 'arch: + b', 'arch: + a']],
    [{ keys: ['port', 'ports'], before: [], after: [{ port: 1 }] }, ['port, ports: + {"port":1}']],
  ]
  for (const [difference, lines] of rows) t.same(differenceLines(difference), lines)
  const [line = ''] = differenceLines({ keys: ['cmd'], before: ['x'.repeat(500)], after: [] })
  t.ok(line.length < 200 && line.endsWith('…'), 'a long value is cut')
})
