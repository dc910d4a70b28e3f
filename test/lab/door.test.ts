import { execFile, type ExecFileOptions } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { LabMap } from './door.ts'
import { readConditions, readLab } from './file.ts'
import { lacking } from './namespace.ts'

const skip = (await lacking()) ?? false
const MAIN = join(import.meta.dirname, '../../src/main.ts')
const NAME = `test-${process.pid}`

function hedgerow(...argv: string[]): Promise<{ code: number; out: string; err: string }> {
  const options: ExecFileOptions = { timeout: 60_000 }
  return new Promise((resolve) => {
    execFile(process.execPath, [MAIN, ...argv], options, (error, out, err) => {
      resolve({
        code: typeof error?.code === 'number' ? error.code : error === null ? 0 : -1,
        out: String(out),
        err: String(err),
      })
    })
  })
}

t.test('a lab as a file', async (t) => {
  const folder = t.testdir()
  const file = (text: string) => {
    const path = join(folder, 'lab.yaml')
    writeFileSync(path, text)
    return path
  }
  const good = 'sites:\n  left: { hosts: [a], nat: symmetric }\npublics: [s]\nconditions: { left: { delayMs: 5 } }\n'
  t.same(readLab(file(good)), {
    sites: { left: { hosts: ['a'], nat: 'symmetric' } },
    publics: ['s'],
    conditions: { left: { delayMs: 5 } },
  })
  const bad: [string, RegExp][] = [
    ['sites: { left: { hosts: [a], nat: sym } }', /lab\.yaml: sites\.left\.nat /],
    ['sites: { left: { host: [a] } }', /sites\.left/],
    ['sites: [', /lab\.yaml: /],
    ['publics: [A_B]', /publics\.0/],
    ['[]', /the whole/],
  ]
  for (const [text, said] of bad) t.throws(() => readLab(file(text)), said, text)
  t.throws(() => readLab(join(folder, 'none.yaml')), /ENOENT/)
  t.throws(() => readConditions({ delay: 5 }), /delay/)
})

t.test('hedgerow lab', { skip, timeout: 120_000 }, async (t) => {
  const path = join(t.testdir(), 'lab.yaml')
  writeFileSync(path, 'sites:\n  left: { hosts: [a, b] }\npublics: [server]\nconditions: { a: { delayMs: 5 } }\n')
  const lab = (...argv: string[]) => hedgerow('lab', argv[0] ?? '', '--name', NAME, ...argv.slice(1))
  t.teardown(() => lab('down'))

  const up = await lab('up', '-f', path, '--detach')
  t.equal(up.code, 0, up.err)
  t.match(up.out, /a +left +192\.168\.1\.10 +(netem|user-space): 5 ms/)
  t.match((await lab('up', '-f', path)).err, /is up/, 'one lab of a name')
  const map = JSON.parse((await lab('map', '-o', 'json')).out) as LabMap
  t.same(
    map.hosts.map(({ name, address }) => [name, address]),
    [
      ['server', '203.0.113.10'],
      ['a', '192.168.1.10'],
      ['b', '192.168.1.11'],
    ],
  )
  t.match((await lab('exec', 'b', '--', 'ip', '-4', '-o', 'addr')).out, '192.168.1.11/24')
  t.equal((await lab('exec', 'a', '--', 'sh', '-c', 'exit 7')).code, 7, 'the command’s own code')
  t.equal((await lab('exec', 'nobody', '--', 'true')).code, 2)

  t.equal((await lab('link', 'a', '--delay', '30', '--loss', '1')).code, 0)
  t.match((await lab('map')).out, /30 ms, 1 % loss/, 'changed while it runs')
  t.match((await lab('link', 'a', '--delay', '-1')).err, /delayMs -1/)
  t.match((await lab('link', 'x', '--cut')).err, /no host or site x/)
  t.equal((await lab('link', 'left', '--cut')).code, 0)

  t.equal((await lab('down')).code, 0)
  t.match((await lab('map')).err, /no lab called/)
})
