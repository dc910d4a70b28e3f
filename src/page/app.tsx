import type { VNode } from 'preact'
import { useEffect, useMemo, useState } from 'preact/hooks'
import { Api } from './live/api.ts'
import { Feed, type Shown } from './live/feed.ts'
import { forgetToken, keepToken, keptToken } from './live/token.ts'
import { type Mesh, NOTHING_YET } from './model/mesh.ts'
import { routeIn, type View } from './model/route.ts'
import { DeskAround } from './parts/desk.tsx'
import { Frame } from './views/frame.tsx'
import { Login } from './views/login.tsx'
import { MapView } from './views/map.tsx'
import { Nodes } from './views/nodes.tsx'
import { Services } from './views/services.tsx'
import { Why } from './views/why.tsx'

/** Who looks, what they look at, and the mesh as it is now. */
export function App() {
  const [token, setToken] = useState(keptToken)
  const [problem, setProblem] = useState<string>()
  const leave = (why?: string) => {
    forgetToken()
    setProblem(why)
    setToken(undefined)
  }
  if (token === undefined) {
    const enter = (typed: string) => {
      keepToken(typed)
      setToken(typed)
    }
    return <Login problem={problem} enter={enter} />
  }
  return <Live token={token} leave={leave} />
}

function Live({ token, leave }: { token: string; leave: (why?: string) => void }) {
  const api = useMemo(() => new Api(token), [token])
  const [{ mesh, link }, setShown] = useState<Shown>({ mesh: NOTHING_YET, link: { state: 'connecting' } })
  const route = useRoute()
  const now = useNow()
  useEffect(() => {
    const running = Feed.start(api, setShown, () => leave('The root does not take this token.'))
    return () => running.close()
  }, [api])
  const { view, open } = route
  return (
    <DeskAround api={api}>
      <Frame view={view} link={link} mesh={mesh} api={api} now={now} leave={() => leave()}>
        <ViewOf view={view} mesh={mesh} open={open} now={now} />
      </Frame>
    </DeskAround>
  )
}

function ViewOf({ view, mesh, open, now }: { view: View; mesh: Mesh; open: string | undefined; now: number }) {
  switch (view) {
    case 'services':
      return <Services mesh={mesh} open={open} now={now} />
    case 'nodes':
      return <Nodes mesh={mesh} open={open} now={now} />
    case 'map':
      return <MapView mesh={mesh} />
    case 'why':
      return <Why mesh={mesh} open={open} now={now} />
    case 'deploy':
      return <Later />
    default:
      view satisfies never
      return undefined
  }
}

/** The reader of documents is as large as all the rest: it is loaded when somebody deploys. */
function Later() {
  const [Deploy, setDeploy] = useState<() => VNode>()
  useEffect(() => {
    void import('./views/deploy.tsx').then((loaded) => setDeploy(() => loaded.Deploy))
  }, [])
  return Deploy === undefined ? <p class="waiting muted">Loading …</p> : <Deploy />
}

function useRoute() {
  const [hash, setHash] = useState(location.hash)
  useEffect(() => {
    const changed = () => setHash(location.hash)
    addEventListener('hashchange', changed)
    return () => removeEventListener('hashchange', changed)
  }, [])
  return routeIn(hash)
}

/** Ages on the page are at most a second old. */
function useNow(): number {
  const [now, setNow] = useState(Date.now)
  useEffect(() => {
    const timer = setInterval(() => document.visibilityState === 'visible' && setNow(Date.now()), 1_000)
    return () => clearInterval(timer)
  }, [])
  return now
}
