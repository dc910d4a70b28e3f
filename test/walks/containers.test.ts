import { spawnSync } from 'node:child_process'
import { existsSync, realpathSync, renameSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import t from 'tap'
import { until } from '../bench/nat/world.ts'
import { Engine, lackingEngine } from '../docker-engine.ts'
import { imageOfThisMachine } from '../../src/lab/docker/image.ts'
import type { Host } from '../../src/lab/host.ts'
import { lab } from '../../src/lab/lab.ts'
import { lacking } from '../../src/lab/namespace.ts'
import { which } from '../../src/lab/this-machine.ts'
import { sla } from './mesh.ts'
import '../support/no-orphans.ts'

/**
 * The image of the Dockerfile, as somebody's CI would use it: built here on a base of this machine's own files, then one agent a
 * container, in two networks behind NATs.
 */
t.setTimeout(280_000)
const npm = which('npm')
const skip = (await lacking()) ?? lackingEngine() ?? (npm === undefined ? 'needs npm' : false)
const REPOSITORY = resolve(import.meta.dirname, '../..')
const HEDGEROW = ['node', '/app/dist/src/hedgerow.js']
const NAME = 'shop.acme.echo.prod.any.closest.local'

t.test('agents in containers call a service by name across NATs', { skip }, async (t) => {
  await using _engine = await Engine.start()
  const image = await agentImage(realpathSync(npm ?? ''))
  const shared = t.testdir()
  const volumes = [`${shared}:/shared`]
  const waits =
    'until [ -s "$0" ]; do sleep 0.1; done; exec node /app/dist/src/hedgerow.js agent --token-file "$0" "$@"'
  const agent = (name: string) => ({
    entrypoint: ['sh', '-c', waits],
    command: [`/shared/${name}.token`, '--name', name],
    volumes,
  })
  await using net = await lab({
    backend: 'docker',
    image,
    sites: { left: { hosts: ['a'] }, right: { hosts: ['b'], nat: 'symmetric' } },
    publics: ['root'],
    containers: { root: { command: ['root', '--listen', '203.0.113.10:7470'], volumes }, a: agent('a'), b: agent('b') },
  })
  const [root, a, b] = [net.host('root'), net.host('a'), net.host('b')]

  // the image's own command is the root; a cluster beside it, then a token for each agent that waits for one
  const token = async (...argv: string[]) => {
    const ask = () => root.exec([...HEDGEROW, 'token', 'create', ...argv, '-o', 'json'])
    let said = await ask()
    await until(
      async () => (said.code === 0 ? true : ((said = await ask()), said.code === 0)),
      'the root gives a token',
    )
    return (JSON.parse(said.stdout) as { token: string }).token
  }
  const cluster = [...HEDGEROW, 'cluster', '--name', 'edge', '--listen', '203.0.113.10:7471']
  const up = Promise.withResolvers<void>()
  await using edge = root.spawn(cluster, {
    env: { HEDGEROW_TOKEN: await token('--role', 'cluster') },
    onLine: (line) => line.includes('control link up') && up.resolve(),
  })
  void edge.exited.then((how) => up.reject(new Error(`the cluster: ${how}: ${edge.lines.join('\n')}`)))
  await up.promise
  for (const name of ['a', 'b']) {
    writeFileSync(join(shared, 'new'), await token('--role', 'node', '--cluster', 'edge'), { mode: 0o644 })
    renameSync(join(shared, 'new'), join(shared, `${name}.token`))
  }
  for (const host of [a, b]) {
    await until(async () => (await controlLink(host)) === 'up', `the agent of ${host.name} is linked`, 60_000)
    t.equal((await host.exec([...HEDGEROW, 'status'])).code, 0, 'what the image’s health check asks')
  }

  writeFileSync(join(shared, 'shop.json'), JSON.stringify(sla([echo('edge', 'b')])), { mode: 0o644 })
  await root.text([...HEDGEROW, 'apply', '-f', '/shared/shop.json'])
  const get = () => a.exec([...HEDGEROW, 'exec', '--', 'curl', '-sf', '--max-time', '5', `http://${NAME}:8080/`])
  await until(async () => (await get()).code === 0, 'the service answers', 60_000)
  t.equal((await get()).stdout, 'hello from shop.acme.echo.prod.0')
  const [peer] = JSON.parse(await a.text([...HEDGEROW, 'peers', '-o', 'json'])) as { node: string; path: string }[]
  t.match(peer, { node: 'edge/b', path: 'relayed' }, 'behind such NATs there is no other way')
})

async function agentImage(npmScript: string): Promise<string> {
  // what this machine's npm needs to reach its registry, from its configuration and its environment
  const settings: (readonly [key: string, value: string])[] = ['registry', 'cafile', 'https-proxy'].flatMap((key) => {
    const value = spawnSync('npm', ['config', 'get', key], { cwd: REPOSITORY, encoding: 'utf8' }).stdout.trim()
    return value === '' || value === 'null' ? [] : [[`npm_config_${key.replace('-', '_')}`, value] as const]
  })
  const extra = process.env['NODE_EXTRA_CA_CERTS']
  if (extra !== undefined) settings.push(['NODE_EXTRA_CA_CERTS', extra])
  const files = settings.flatMap(([key, value]) => (/cafile|CA_CERTS/.test(key) ? [value] : []))
  const machine = await imageOfThisMachine({ files: [...npmFolders(npmScript), ...new Set(files)] })
  const lines = [
    `FROM ${machine}`,
    `RUN ln -s ${npmScript} /usr/bin/npm`,
    ...settings.map(([key, value]) => `ENV ${key}=${value}`),
  ]
  build(['--tag', 'hedgerow-machine', '-'], lines.join('\n'))
  // npm's registry is reached as from this machine
  build(['--network', 'host', '--build-arg', 'NODE_IMAGE=hedgerow-machine', '--tag', 'hedgerow', REPOSITORY])
  return 'hedgerow'
}

/** Debian's npm takes its modules from folders that all its packages of JavaScript share. */
function npmFolders(npmScript: string): string[] {
  const shared = ['/usr/share/nodejs', '/usr/lib/nodejs', '/usr/lib/x86_64-linux-gnu/nodejs', '/usr/share/node_modules']
  return npmScript.startsWith('/usr/share/nodejs/') ? shared.filter(existsSync) : [resolve(npmScript, '../..')]
}

function build(argv: readonly string[], input = ''): void {
  const env = { ...process.env, DOCKER_BUILDKIT: '0' } // the builder that every engine and tool has
  const { status, stdout, stderr } = spawnSync('docker', ['build', ...argv], { env, input, encoding: 'utf8' })
  if (status !== 0) throw new Error(`docker build: ${stdout.split('\n').slice(-20).join('\n')}\n${stderr}`)
}

async function controlLink(host: Host): Promise<string | undefined> {
  const { code, stdout } = await host.exec([...HEDGEROW, 'status', '-o', 'json'])
  return code === 0 ? (JSON.parse(stdout) as { agent: { controlLink: string } }).agent.controlLink : undefined
}

function echo(cluster: string, node: string): object {
  const program =
    "require('http').createServer((q, r) => r.end('hello from ' + process.env.HEDGEROW_INSTANCE)).listen(process.env.PORT, process.env.HOST)"
  return {
    microservice_name: 'echo',
    microservice_namespace: 'prod',
    virtualization: 'process',
    cmd: ['node', '-e', program],
    port: '8080',
    code: '',
    constraints: [{ type: 'direct', cluster, node }],
  }
}
