import { useRef, useState } from 'preact/hooks'
import { ApiError } from '../live/api.ts'
import { apply, dryRun, type Difference } from '../live/calls.ts'
import { Badge } from '../parts/badge.tsx'
import { useDesk } from '../parts/desk.tsx'
import { CHANGE_TONES, Differences } from '../parts/differences.tsx'
import { Editor } from '../parts/editor.tsx'
import { effectText, isEmpty } from '../model/difference.ts'
import { type LineFault, located, readDocument } from '../model/document.ts'
import { hashOf } from '../model/route.ts'
import { counted, nameParts } from '../model/text.ts'
import { may } from '../model/who.ts'

const EXAMPLE = `application_name: hello
application_namespace: demo
microservices:
  - microservice_name: greeter
    microservice_namespace: demo
    replicas: 2
    port: "8080"
    cmd:
      - python3
      - -c
      - "import http.server, os; http.server.test(port=int(os.environ['PORT']), bind=os.environ['HOST'])"
`

/** What was found about the text as it is; forgotten when it changes. */
type Found =
  | { kind: 'nothing' }
  | { kind: 'asking' }
  | { kind: 'faults'; faults: LineFault[] }
  | { kind: 'difference'; services: Difference[]; warnings: LineFault[]; document: unknown }
  | { kind: 'applied'; services: { id: string; change: string }[] }

/** A document, its faults where they are, what it would change, and then the change. */
export function Deploy() {
  const { api, me, ask } = useDesk()
  const [text, setText] = useState('')
  const [prune, setPrune] = useState(false)
  const [found, setFound] = useState<Found>({ kind: 'nothing' })
  const field = useRef<HTMLTextAreaElement>(null)
  const change = (next: string) => {
    setText(next)
    setFound({ kind: 'nothing' })
  }

  const compare = async () => {
    const reading = readDocument(text)
    if (reading.kind === 'faulty') return setFound({ kind: 'faults', faults: reading.faults })
    setFound({ kind: 'asking' })
    try {
      const { services, warnings } = await dryRun(api, reading.document, { prune })
      return setFound({
        kind: 'difference',
        services,
        warnings: located(warnings, reading.lineOf),
        document: reading.document,
      })
    } catch (error) {
      const { message } = error as Error
      const faults = error instanceof ApiError ? error.faults : []
      return setFound({
        kind: 'faults',
        faults: faults.length > 0 ? located(faults, reading.lineOf) : [{ problem: message }],
      })
    }
  }
  const applied = (document: unknown, services: readonly Difference[]) =>
    ask({
      title: 'Apply the document',
      text: changeText(services),
      confirm: 'Apply',
      isDanger: services.some(({ instances: { removed } }) => removed > 0),
      act: async () => {
        const { services } = await apply(api, document, { prune })
        setFound({ kind: 'applied', services })
        return 'The document is applied.'
      },
    })
  const take = (files: FileList | undefined | null) => {
    const [file] = files ?? []
    void file?.text().then(change)
  }
  const faults = found.kind === 'faults' ? found.faults : found.kind === 'difference' ? found.warnings : []
  return (
    <div class="view deploy">
      <div class="tools">
        <p class="title" aria-hidden="true">
          Deploy
        </p>
        <label class="button">
          Open a file
          <input type="file" accept=".yaml,.yml,.json" onChange={({ currentTarget }) => take(currentTarget.files)} />
        </label>
        {text === '' ? (
          <button type="button" class="button quiet" onClick={() => change(EXAMPLE)}>
            An example
          </button>
        ) : undefined}
        <label class="tick">
          <input
            type="checkbox"
            checked={prune}
            onChange={({ currentTarget }) => {
              setPrune(currentTarget.checked)
              setFound({ kind: 'nothing' })
            }}
          />{' '}
          Remove services that it no longer names
        </label>
        <span class="end">
          <button
            type="button"
            class="button"
            disabled={text.trim() === '' || found.kind === 'asking'}
            onClick={() => void compare()}
          >
            Show the difference
          </button>
          <button
            type="button"
            class="button primary"
            disabled={found.kind !== 'difference' || isEmpty(found.services)}
            onClick={() => found.kind === 'difference' && applied(found.document, found.services)}
          >
            Apply
          </button>
        </span>
      </div>
      {may(me, 'change', 'any') ? undefined : (
        <p class="notice idle">You may look, and change nothing: a document is refused.</p>
      )}
      <div
        class="columns"
        onDragOver={(event) => event.preventDefault()}
        onDrop={(event) => {
          event.preventDefault()
          take(event.dataTransfer?.files)
        }}
      >
        <Editor
          label="SLA document, YAML or JSON"
          placeholder="Paste an SLA document here, or drop a file."
          value={text}
          change={change}
          faults={faults}
          isWarning={found.kind === 'difference'}
          field={field}
        />
        <section class="result" aria-label="Result" aria-live="polite" tabIndex={0}>
          <Result found={found} goTo={(line) => selectLine(field.current, line)} />
        </section>
      </div>
    </div>
  )
}

function changeText(services: readonly Difference[]): string {
  const changed = services.filter(({ change }) => change !== 'unchanged')
  return changed.map((one) => `${nameParts(one.id).name}: ${effectText(one)}`).join('. ')
}

function Result({ found, goTo }: { found: Found; goTo: (line: number) => void }) {
  switch (found.kind) {
    case 'nothing':
      return (
        <p class="muted">
          <b>Show the difference</b> asks the root what the document would change. Nothing happens before <b>Apply</b>.
        </p>
      )
    case 'asking':
      return <p class="muted">Asking the root …</p>
    case 'faults':
      return (
        <>
          <h2>{counted(found.faults.length, 'fault')}</h2>
          <Faults faults={found.faults} goTo={goTo} />
        </>
      )
    case 'difference':
      return (
        <>
          <h2>{isEmpty(found.services) ? 'It would change nothing' : 'What it would change'}</h2>
          <Differences services={found.services} />
          {found.warnings.length === 0 ? undefined : (
            <>
              <h3>Warnings</h3>
              <Faults faults={found.warnings} goTo={goTo} />
            </>
          )}
        </>
      )
    case 'applied':
      return (
        <>
          <h2>Applied</h2>
          <ul class="differences">
            {found.services.map(({ id, change }) => (
              <li key={id}>
                <span class="cardhead">
                  <a href={hashOf({ view: 'services', open: id })}>{nameParts(id).name}</a>
                  <Badge tone={CHANGE_TONES[change] ?? 'idle'}>{change}</Badge>
                </span>
              </li>
            ))}
          </ul>
        </>
      )
    default:
      found satisfies never
      return undefined
  }
}

function Faults({ faults, goTo }: { faults: readonly LineFault[]; goTo: (line: number) => void }) {
  return (
    <ul class="faults">
      {faults.map(({ line, path, problem, remedy }) => (
        <li key={`${path ?? ''} ${line ?? ''} ${problem}`}>
          {line === undefined ? undefined : (
            <button type="button" class="button small" onClick={() => goTo(line)}>
              line {line}
            </button>
          )}
          <span>
            {path === undefined ? undefined : <span class="mono">{path}</span>} {problem}
            {remedy === undefined ? undefined : <span class="why muted">{remedy}</span>}
          </span>
        </li>
      ))}
    </ul>
  )
}

function selectLine(field: HTMLTextAreaElement | null, line: number): void {
  if (field === null) return
  const lines = field.value.split('\n')
  const start = lines.slice(0, line - 1).reduce((sum, { length }) => sum + length + 1, 0)
  field.focus()
  field.setSelectionRange(start, start + (lines[line - 1]?.length ?? 0))
  field.scrollTop = Math.max(0, (line - 6) * 20)
}
