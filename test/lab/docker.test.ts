import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import t from 'tap'
import { labContract } from '../contracts/lab.ts'
import { Engine, lackingEngine } from '../docker-engine.ts'
import { lab } from '../../src/lab/lab.ts'
import { lackingFor } from '../../src/lab/missing-rights.ts'
import { lacking } from '../../src/lab/namespace.ts'
import { Program, run } from '../../src/lab/program.ts'
import { LAUNCHER } from '../support/launcher.ts'
import '../support/no-orphans.ts'

t.setTimeout(280_000)
const skip = (await lacking()) ?? lackingEngine() ?? false
const engine = skip === false ? await Engine.start() : undefined
t.teardown(() => engine?.[Symbol.asyncDispose]())

t.test('a lab of containers', { skip }, (t) => labContract('docker', t))

t.test('a host is what its container is', { skip }, async (t) => {
  const folder = t.testdir({ page: 'hello from the file' })
  const image = { entrypoint: ['sh', '-c'], command: ['id -u > /tmp/who; echo $WORD > /tmp/word; exec sleep 600'] }
  await using net = await lab({
    backend: 'docker',
    publics: ['a', 'b'],
    containers: {
      a: { ...image, env: { WORD: 'seen' }, volumes: [`${folder}:/pages:ro`], user: '1000' },
      b: { capabilities: ['NET_ADMIN'] },
    },
  })
  const [a, b] = [net.host('a'), net.host('b')]
  t.equal(await a.text(['cat', '/pages/page', '/tmp/word', '/tmp/who']), 'hello from the fileseen\n1000\n')
  t.equal((await a.text(['hostname'])).trim(), 'a')
  const mtu = (host: typeof a) => host.exec(['ip', 'link', 'set', 'eth0', 'mtu', '1400'])
  t.not((await mtu(a)).code, 0, 'a container may do what containers may')
  t.equal((await mtu(b)).code, 0, 'unless it is given more')

  await b.text(['sh', '-c', 'echo kept > /root/file'])
  await b.lose()
  await b.heal()
  t.equal(await b.text(['cat', '/root/file']), 'kept\n', 'its files outlive a loss of power')
})

t.test('hedgerow lab --backend docker', { skip }, async (t) => {
  const path = join(t.testdir({ 'lab.yaml': 'publics: [a]\n' }), 'lab.yaml')
  const name = `containers-${process.pid}`
  const hedgerow = (...argv: string[]) =>
    run([process.execPath, LAUNCHER, 'lab', argv[0] ?? '', '--name', name, ...argv.slice(1)], { timeoutMs: 60_000 })
  const up = Program.start([process.execPath, LAUNCHER, 'lab', 'up', '-f', path, '--name', name, '--backend', 'docker'])
  while (!up.lines.some((line) => line.startsWith('up;'))) {
    if (up.exit !== undefined) throw new Error(up.lines.join('\n'))
    await setTimeout(200)
  }
  const [container = ''] = (await engine?.containers()) ?? []
  t.match(up.lines.join('\n'), new RegExp(`a +internet +203.* ${container}`), 'the map shows the container')
  t.match(await hedgerow('exec', 'a', '--', 'sh', '-c', 'hostname; exit 7'), { code: 7, stdout: 'a\n' })
  up.signal('SIGKILL')
  await up.exited
  t.equal((await engine?.containers())?.length, 2, 'what it left')
  t.equal((await hedgerow('down')).code, 0)
  t.same(await engine?.containers(), [], 'goes')
})

t.test('what does not start is told, and taken back', { skip }, async (t) => {
  const ends = { entrypoint: ['sh', '-c'], command: ['echo no such thing; exit 3'] }
  await t.rejects(
    lab({ backend: 'docker', publics: ['a', 'b'], containers: { b: ends } }),
    /host b: its container \(hedgerow-lab:\w+\) ended at once with code 3[^]*no such thing/,
  )
  await t.rejects(lab({ backend: 'docker', publics: ['a'], image: 'NOT/an/image' }), /host a: docker run: .*reference/)
  t.same(await engine?.containers(), [])
})

t.test('an engine that does not answer', { skip }, async (t) => {
  const host = process.env['DOCKER_HOST']
  t.equal(await lackingFor('docker'), undefined)
  process.env['DOCKER_HOST'] = 'unix:///nowhere.sock'
  t.match(await lackingFor('docker'), /needs a Docker engine that answers \(.*nowhere\.sock/)
  process.env['DOCKER_HOST'] = host
})
