import { execFile, type ExecFileOptions } from 'node:child_process'
import { readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { LabMap } from '../../src/lab/control-socket.ts'
import { readConditions, readLab } from '../../src/lab/lab-file.ts'
import { lacking } from '../../src/lab/namespace.ts'
import { Program } from '../../src/lab/program.ts'
import { LAUNCHER } from '../support/launcher.ts'
import '../support/no-orphans.ts'

t.setTimeout(280_000)
const skip = (await lacking()) ?? false
const NAME = `test-${process.pid}`

function hedgerow(...argv: string[]): Promise<{ code: number; out: string; err: string }> {
  const options: ExecFileOptions = { timeout: 60_000 }
  return new Promise((resolve) => {
    execFile(process.execPath, [LAUNCHER, ...argv], options, (error, out, err) => {
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
    [
      'sites:\n  left: { hosts: [a], nat: sym }',
      /lab\.yaml:2: sites\.left\.nat: must be one of none, endpoint-independent, /,
    ],
    [
      'sites: { left: { host: [a] } }',
      /left: hosts is missing\n.*:1: sites\.left\.host: unknown key; did you mean "hosts"\?/,
    ],
    ['sites: [', /lab\.yaml:1: /],
    ['publics: [A_B]', /lab\.yaml:1: publics\.0: a name is lower-case/],
    ['[]', /lab\.yaml:1: must be keys and values; there are backend/],
    ['sites: { left: { hosts: [a], behind: x } }', /sites\.left\.behind: no site above this one is called x/],
    ['sites: { left: { hosts: [a], prefix: 10.0.0.0/8 } }', /sites\.left\.prefix: 10\.0\.0\.0\/8 is not a \/24/],
    ['sites: { left: { hosts: [a], nat: none, hairpin: true } }', /sites\.left\.hairpin: no hairpin with nat none/],
    ['publics: [a, a]', /two hosts are called a/],
    ['publics: [a]\nconditions:\n  a: { lossPercent: 200 }', /:3: conditions\.a: a link cannot have lossPercent 200/],
    ['publics: [a]\nconditions:\n  b: {}', /:3: conditions\.b: .*no host or site/],
    ['publics: [a]\ncontainers:\n  b: {}', /:3: containers\.b: .*no host/],
    ['publics: [a]\ncontainers:\n  a: { volumes: [x] }', /:3: containers\.a\.volumes\.0: must be source:\/target/],
    ['backend: podman', /lab\.yaml:1: backend: must be one of namespaces, docker/],
  ]
  const example = readLab(join(import.meta.dirname, '../../examples/lab.yaml'))
  t.same(Object.keys(example.sites ?? {}), ['home-one', 'home-two', 'office', 'carrier', 'phone'], 'the example')
  const { containers } = readLab(file('publics: [a]\ncontainers: { a: { volumes: [./x:/y:ro, z:/z] } }'))
  t.same(containers?.['a']?.volumes, [`${join(folder, 'x')}:/y:ro`, 'z:/z'], 'a folder is beside the file')
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
  t.match(await lab('exec', 'nobody', '--', 'true'), {
    code: 2,
    err: /unknown host "nobody"\nUse one of: server, a, b\./,
  })

  t.equal((await lab('link', 'a', '--delay', '30', '--loss', '1')).code, 0)
  t.match((await lab('map')).out, /30 ms, 1 % loss/, 'changed while it runs')
  t.match((await lab('link', 'a', '--delay', '-1')).err, /delayMs -1/)
  t.match((await lab('link', 'a', '--delay', 'long')).err, /"long" is not a number/)
  t.match((await lab('link', 'x', '--cut')).err, /no host or site x/)
  const plain = await lab('link', 'b', '--delay', '10')
  if (plain.code !== 0)
    t.match(plain.err, /write `conditions: \{ b: \{\} \}` into the file/, 'without netem: what to write')
  t.notMatch(plain.err, /qdisc|RTNETLINK/, 'never the words of tc')
  t.equal((await lab('link', 'left', '--cut')).code, 0)

  t.equal((await lab('down')).code, 0)
  t.match(await lab('map'), { code: 5, err: /no lab called/i })
  t.match(await lab('down'), { code: 5, err: /no lab called/i })
  t.match(await lab('up', '-f', '/nowhere/lab.yaml'), { code: 2, err: /\/nowhere\/lab\.yaml: ENOENT/ })
})

t.test('what the killed process of a lab left goes with `down`', { skip, timeout: 120_000 }, async (t) => {
  const path = join(t.testdir(), 'lab.yaml')
  writeFileSync(path, 'sites:\n  left: { hosts: [a] }\n')
  const name = `${NAME}-killed`
  const up = Program.start([process.execPath, LAUNCHER, 'lab', 'up', '-f', path, '--name', name], {
    onLine: (line) => line.startsWith('up;') && up.signal('SIGKILL'),
  })
  t.equal(await up.exited, 'SIGKILL')
  const left = () => readdirSync('/var/run/netns').filter((one) => one.startsWith(`hedgerow-${up.pid}-`))
  t.equal(left().length, 3, 'the internet, a router and a host')
  t.match(await hedgerow('lab', 'down', '--name', name), { code: 0, err: '' })
  t.same(left(), [], 'gone')
  t.equal((await hedgerow('lab', 'down', '--name', name)).code, 5, 'and then there is none')
})
