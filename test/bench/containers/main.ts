/**
 * What containers cost: their start beside `docker run`, requests between two of them beside Docker's own bridge and a hop of HAProxy,
 * an agent that is killed, many of them at rest; and which resolvers find names. With an engine of its own, as root.
 *
 *     npm run bench:containers
 *     npm run bench:containers -- --only start --starts 20
 *     npm run bench:containers -- --many 200 --rest 30 --seconds 5 --rounds 3 --no-install
 *
 * Engine, agent and containers are in a network namespace that it makes for itself.
 */
import { spawnSync } from 'node:child_process'
import { loadavg } from 'node:os'
import { scriptOptions } from '../../../.config/script-options.ts'
import { hasTool, installTools } from '../../../src/lab/system-tools.ts'
import { fetchEngine, lackingEngine } from '../../docker-engine.ts'
import { requests } from './requests.ts'
import { resolverPrograms } from './resolver-programs.ts'
import { resolvers } from './resolvers.ts'
import { killedAgent, many } from './rest.ts'
import { start } from './start.ts'
import { World } from './world.ts'

const values = scriptOptions({
  name: 'npm run bench:containers',
  about: 'What containers cost, beside the engine alone; as root, with an engine of its own.',
  options: {
    only: { kind: 'pattern', default: '.', meaning: 'only: start, requests, resolvers, killed agent, many' },
    starts: { kind: 'number', default: 10, meaning: 'how many starts of each kind' },
    seconds: { kind: 'number', default: 5, meaning: 'how many seconds of requests in each round' },
    rounds: { kind: 'number', default: 3, meaning: 'how many rounds of requests' },
    many: { kind: 'number', default: 200, meaning: 'how many containers at rest' },
    rest: { kind: 'number', default: 30, meaning: 'how many seconds of rest' },
    'no-install': { kind: 'flag', meaning: 'never calls apt-get' },
  },
})
const INSIDE = 'HEDGEROW_BENCH_CONTAINERS'
const note = (line: string) => void process.stderr.write(`${line}\n`)

if (process.env[INSIDE] === undefined) {
  if (!values['no-install']) {
    fetchEngine(note)
    installTools(
      ['wrk', 'haproxy'].filter((tool) => !hasTool(tool)),
      note,
    )
    resolverPrograms() // in the namespace nothing can be fetched
  }
  const lacking = lackingEngine()
  if (lacking !== undefined) {
    note(`npm run bench:containers: ${lacking}`)
    process.exit(2)
  }
  const argv = ['--net', process.execPath, import.meta.filename, ...process.argv.slice(2)]
  process.exit(spawnSync('unshare', argv, { stdio: 'inherit', env: { ...process.env, [INSIDE]: '1' } }).status ?? 1)
}

await using world = await World.start()
const parts = {
  start: () => start(world, values.starts),
  requests: () => requests(world, values),
  resolvers: () => resolvers(world),
  'killed agent': () => killedAgent(world),
  many: () => many(world, { count: values.many, restS: values.rest }),
}
for (const [name, part] of Object.entries(parts)) {
  if (!values.only.test(name)) continue
  const load = loadavg()[0]?.toFixed(1)
  for (const line of await part()) process.stdout.write(`${line} (load average before: ${load})\n`)
}
