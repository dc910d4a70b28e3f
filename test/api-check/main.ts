import { execFileSync, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { scriptOptions } from '../../.config/script-options.ts'
import { mesh, sla } from '../orchestrator/mesh.ts'

/*
 * `npm run check:api`: schemathesis asks a root on loopback whatever its OpenAPI document allows, and more. It fails when
 * an answer is a 5xx or is not as the document says. Not part of the tests: it needs Python, and fetches schemathesis from PyPI once.
 */
const VERSION = '4.32.5'
/** Streams, which do not end, and what would end the session with which it asks. */
const LEFT_OUT = ['watch', 'followEvents', 'readLogs', 'readExec', 'logout']
/**
 * Without those that take a valid request for one that must be done (`shop.acme` may not be there), and that ask without credentials: the
 * header below is added to these as well.
 */
const CHECKS =
  'not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,negative_data_rejection'

const { examples } = scriptOptions({
  name: 'npm run check:api',
  about: 'Asks a root whatever its OpenAPI document allows (schemathesis).',
  options: { examples: { kind: 'text', meaning: 'requests of each call', default: '15' } },
})
const venv = join(homedir(), '.cache/hedgerow-schemathesis', VERSION)
const program = join(venv, 'bin/schemathesis')
if (!existsSync(program)) {
  execFileSync('python3', ['-m', 'venv', venv], { stdio: 'inherit' })
  execFileSync(join(venv, 'bin/pip'), ['install', '--quiet', `schemathesis==${VERSION}`], { stdio: 'inherit' })
}

await using world = await mesh()
await world.node('n1')
await world.api.call('POST', '/apps', sla({ microservice_name: 'cart' }))
await world.running(1)
const { url, token } = world.credential
const about = ['--tls-verify', 'false', '-H', `authorization: Bearer ${token}`, '--rate-limit', '150/s']
const phases = ['--phases', 'examples,coverage,fuzzing', '-n', examples, '--request-timeout', '10', '--checks', CHECKS]
const leftOut = LEFT_OUT.flatMap((id) => ['--exclude-operation-id', id])
const asked = spawn(program, ['run', `${url}/v1/openapi.json`, ...about, ...phases, ...leftOut], {
  stdio: 'inherit',
  cwd: world.dir,
})
process.exitCode = await new Promise<number>((resolve) => asked.once('exit', (code) => resolve(code ?? 1)))
