package stats

// The scopes below carry Envoy's names (docs/root/configuration/upstream/cluster_manager/cluster_stats, …/http_conn_man/stats,
// …/listeners/stats) in their tags. A field of a struct type without a tag of its own is a prefix. What a request touches
// stands first and together, so that it shares cache lines.

// Cluster is cluster.NAME.*
type Cluster struct {
	UpstreamRqTotal       Counter   `stat:"upstream_rq_total"`
	UpstreamRqActive      Gauge     `stat:"upstream_rq_active"`
	UpstreamCxRxBytes     Counter   `stat:"upstream_cx_rx_bytes_total"`
	UpstreamCxTxBytes     Counter   `stat:"upstream_cx_tx_bytes_total"`
	UpstreamRqTime        Histogram `stat:"upstream_rq_time"`
	UpstreamRq            Codes     `stat:"upstream_rq"` // _completed, _2xx, _200
	UpstreamRqPendTotal   Counter   `stat:"upstream_rq_pending_total"`
	UpstreamRqPendActive  Gauge     `stat:"upstream_rq_pending_active"`
	UpstreamRqPendOver    Counter   `stat:"upstream_rq_pending_overflow"`
	UpstreamRqPendEject   Counter   `stat:"upstream_rq_pending_failure_eject"`
	UpstreamRqActiveOver  Counter   `stat:"upstream_rq_active_overflow"`
	UpstreamRqCancelled   Counter   `stat:"upstream_rq_cancelled"`
	UpstreamRqTimeout     Counter   `stat:"upstream_rq_timeout"`
	UpstreamRqPerTryTime  Counter   `stat:"upstream_rq_per_try_timeout"`
	UpstreamRqRxReset     Counter   `stat:"upstream_rq_rx_reset"`
	UpstreamRqTxReset     Counter   `stat:"upstream_rq_tx_reset"`
	UpstreamRqMaxDuration Counter   `stat:"upstream_rq_max_duration_reached"`

	UpstreamRqRetry              Counter `stat:"upstream_rq_retry"`
	UpstreamRqRetrySuccess       Counter `stat:"upstream_rq_retry_success"`
	UpstreamRqRetryOverflow      Counter `stat:"upstream_rq_retry_overflow"`
	UpstreamRqRetryLimitExceeded Counter `stat:"upstream_rq_retry_limit_exceeded"`
	UpstreamRqRetryBackoffExp    Counter `stat:"upstream_rq_retry_backoff_exponential"`
	UpstreamRqRetryBackoffRate   Counter `stat:"upstream_rq_retry_backoff_ratelimited"`
	RetryOrShadowAbandoned       Counter `stat:"retry_or_shadow_abandoned"`

	UpstreamCxTotal              Counter   `stat:"upstream_cx_total"`
	UpstreamCxActive             Gauge     `stat:"upstream_cx_active"`
	UpstreamCxHTTP1Total         Counter   `stat:"upstream_cx_http1_total"`
	UpstreamCxHTTP2Total         Counter   `stat:"upstream_cx_http2_total"`
	UpstreamCxConnectFail        Counter   `stat:"upstream_cx_connect_fail"`
	UpstreamCxConnectTimeout     Counter   `stat:"upstream_cx_connect_timeout"`
	UpstreamCxConnectExceeded    Counter   `stat:"upstream_cx_connect_attempts_exceeded"`
	UpstreamCxIdleTimeout        Counter   `stat:"upstream_cx_idle_timeout"`
	UpstreamCxMaxDuration        Counter   `stat:"upstream_cx_max_duration_reached"`
	UpstreamCxMaxRequests        Counter   `stat:"upstream_cx_max_requests"`
	UpstreamCxOverflow           Counter   `stat:"upstream_cx_overflow"`
	UpstreamCxPoolOverflow       Counter   `stat:"upstream_cx_pool_overflow"`
	UpstreamCxProtocolError      Counter   `stat:"upstream_cx_protocol_error"`
	UpstreamCxNoneHealthy        Counter   `stat:"upstream_cx_none_healthy"`
	UpstreamCxCloseNotify        Counter   `stat:"upstream_cx_close_notify"`
	UpstreamCxDestroy            Counter   `stat:"upstream_cx_destroy"`
	UpstreamCxDestroyLocal       Counter   `stat:"upstream_cx_destroy_local"`
	UpstreamCxDestroyRemote      Counter   `stat:"upstream_cx_destroy_remote"`
	UpstreamCxDestroyActive      Counter   `stat:"upstream_cx_destroy_with_active_rq"`
	UpstreamCxDestroyLocalActive Counter   `stat:"upstream_cx_destroy_local_with_active_rq"`
	UpstreamCxDestroyRemActive   Counter   `stat:"upstream_cx_destroy_remote_with_active_rq"`
	UpstreamCxRxBuffered         Gauge     `stat:"upstream_cx_rx_bytes_buffered"`
	UpstreamCxTxBuffered         Gauge     `stat:"upstream_cx_tx_bytes_buffered"`
	UpstreamCxConnectMs          Histogram `stat:"upstream_cx_connect_ms"`
	UpstreamCxLengthMs           Histogram `stat:"upstream_cx_length_ms"`
	BindErrors                   Counter   `stat:"bind_errors"`

	MembershipTotal    Gauge   `stat:"membership_total"`
	MembershipHealthy  Gauge   `stat:"membership_healthy"`
	MembershipDegraded Gauge   `stat:"membership_degraded"`
	MembershipExcluded Gauge   `stat:"membership_excluded"`
	MembershipChange   Counter `stat:"membership_change"`
	UpdateAttempt      Counter `stat:"update_attempt"`
	UpdateSuccess      Counter `stat:"update_success"`
	UpdateFailure      Counter `stat:"update_failure"`
	UpdateEmpty        Counter `stat:"update_empty"`
	UpdateNoRebuild    Counter `stat:"update_no_rebuild"`
	MaxHostWeight      Gauge   `stat:"max_host_weight"`

	LbHealthyPanic         Counter `stat:"lb_healthy_panic"`
	OriginalDstHostInvalid Counter `stat:"original_dst_host_invalid"`

	OutlierDetection OutlierDetection `stat:"outlier_detection"`
	CircuitBreakers  CircuitBreakers  `stat:"circuit_breakers.default"`
	SSL              TLS              `stat:"ssl"`
	Detour           ClusterDetour    `stat:"detour"`
}

// OutlierDetection is cluster.NAME.outlier_detection.*
type OutlierDetection struct {
	EjectionsActive        Gauge   `stat:"ejections_active"`
	EjectionsEnforcedTotal Counter `stat:"ejections_enforced_total"`
	EjectionsOverflow      Counter `stat:"ejections_overflow"`

	EjectionsDetectedConsecutive5xx                Counter `stat:"ejections_detected_consecutive_5xx"`
	EjectionsEnforcedConsecutive5xx                Counter `stat:"ejections_enforced_consecutive_5xx"`
	EjectionsDetectedConsecutiveGatewayFailure     Counter `stat:"ejections_detected_consecutive_gateway_failure"`
	EjectionsEnforcedConsecutiveGatewayFailure     Counter `stat:"ejections_enforced_consecutive_gateway_failure"`
	EjectionsDetectedConsecutiveLocalOriginFailure Counter `stat:"ejections_detected_consecutive_local_origin_failure"`
	EjectionsEnforcedConsecutiveLocalOriginFailure Counter `stat:"ejections_enforced_consecutive_local_origin_failure"`
	EjectionsDetectedSuccessRate                   Counter `stat:"ejections_detected_success_rate"`
	EjectionsEnforcedSuccessRate                   Counter `stat:"ejections_enforced_success_rate"`
	EjectionsDetectedLocalOriginSuccessRate        Counter `stat:"ejections_detected_local_origin_success_rate"`
	EjectionsEnforcedLocalOriginSuccessRate        Counter `stat:"ejections_enforced_local_origin_success_rate"`
	EjectionsDetectedFailurePercentage             Counter `stat:"ejections_detected_failure_percentage"`
	EjectionsEnforcedFailurePercentage             Counter `stat:"ejections_enforced_failure_percentage"`
	EjectionsDetectedLocalOriginFailurePercentage  Counter `stat:"ejections_detected_local_origin_failure_percentage"`
	EjectionsEnforcedLocalOriginFailurePercentage  Counter `stat:"ejections_enforced_local_origin_failure_percentage"`
}

// CircuitBreakers is cluster.NAME.circuit_breakers.default.*; 1 means that the limit is reached. What remains is there
// whether or not track_remaining asks for it.
type CircuitBreakers struct {
	CxOpen        Gauge `stat:"cx_open"`
	CxPoolOpen    Gauge `stat:"cx_pool_open"`
	RqOpen        Gauge `stat:"rq_open"`
	RqPendingOpen Gauge `stat:"rq_pending_open"`
	RqRetryOpen   Gauge `stat:"rq_retry_open"`

	RemainingCx      Gauge `stat:"remaining_cx"`
	RemainingPending Gauge `stat:"remaining_pending"`
	RemainingRq      Gauge `stat:"remaining_rq"`
	RemainingRetries Gauge `stat:"remaining_retries"`
}

// TLS is cluster.NAME.ssl.*
type TLS struct {
	Handshake       Counter `stat:"handshake"`
	SessionReused   Counter `stat:"session_reused"`
	ConnectionError Counter `stat:"connection_error"`
	FailVerifyError Counter `stat:"fail_verify_error"`
	FailVerifySAN   Counter `stat:"fail_verify_san"`
	NoCertificate   Counter `stat:"no_certificate"`
}

// ClusterDetour is cluster.NAME.detour.*: what Envoy has no word for (DESIGN.md, E2 to E5).
type ClusterDetour struct {
	RetryUnsent    Counter `stat:"retry_unsent"`   // sent elsewhere because nothing of it had been written
	RetrySent      Counter `stat:"retry_sent"`     // idempotent, sent again after its bytes went out
	RetryBudget    Counter `stat:"retry_budget"`   // not sent again: the budget was used up
	HedgeTotal     Counter `stat:"hedge_total"`    // connection attempts raced with another
	HedgeWon       Counter `stat:"hedge_won"`      // the second attempt served the request
	HedgeBudget    Counter `stat:"hedge_budget"`   // not raced: the budget was used up
	LocalFault     Counter `stat:"local_fault"`    // failures that were ours, and judged nobody
	EjectedTried   Counter `stat:"ejected_tried"`  // requests given to an ejected endpoint because nothing else was left
	PriorityHigher Counter `stat:"failover_rq"`    // requests served by a priority other than 0
	ClientHelloNew Counter `stat:"hello_failover"` // ClientHellos given to another endpoint
}

// HTTP is http.STAT_PREFIX.*, one for each stat_prefix of HTTP connection managers.
type HTTP struct {
	DownstreamRqTotal   Counter   `stat:"downstream_rq_total"`
	DownstreamRqActive  Gauge     `stat:"downstream_rq_active"`
	DownstreamRq        Classes   `stat:"downstream_rq"` // _completed, _2xx
	DownstreamCxRxBytes Counter   `stat:"downstream_cx_rx_bytes_total"`
	DownstreamCxTxBytes Counter   `stat:"downstream_cx_tx_bytes_total"`
	DownstreamRqTime    Histogram `stat:"downstream_rq_time"`
	RqTotal             Counter   `stat:"rq_total"` // requests that reached the router

	DownstreamRqHTTP1Total     Counter `stat:"downstream_rq_http1_total"`
	DownstreamRqHTTP2Total     Counter `stat:"downstream_rq_http2_total"`
	DownstreamRqRxReset        Counter `stat:"downstream_rq_rx_reset"`
	DownstreamRqTxReset        Counter `stat:"downstream_rq_tx_reset"`
	DownstreamRqTimeout        Counter `stat:"downstream_rq_timeout"`
	DownstreamRqHeaderTimeout  Counter `stat:"downstream_rq_header_timeout"`
	DownstreamRqIdleTimeout    Counter `stat:"downstream_rq_idle_timeout"`
	DownstreamRqMaxDuration    Counter `stat:"downstream_rq_max_duration_reached"`
	DownstreamRqTooLarge       Counter `stat:"downstream_rq_too_large"`
	DownstreamRqNonRelative    Counter `stat:"downstream_rq_non_relative_path"`
	DownstreamRqBeforeComplete Counter `stat:"downstream_rq_response_before_rq_complete"`
	DownstreamRqUpgradeNoRoute Counter `stat:"downstream_rq_ws_on_non_ws_route"`

	DownstreamCxTotal            Counter   `stat:"downstream_cx_total"`
	DownstreamCxActive           Gauge     `stat:"downstream_cx_active"`
	DownstreamCxHTTP1Total       Counter   `stat:"downstream_cx_http1_total"`
	DownstreamCxHTTP1Active      Gauge     `stat:"downstream_cx_http1_active"`
	DownstreamCxHTTP2Total       Counter   `stat:"downstream_cx_http2_total"`
	DownstreamCxHTTP2Active      Gauge     `stat:"downstream_cx_http2_active"`
	DownstreamCxUpgradesTotal    Counter   `stat:"downstream_cx_upgrades_total"`
	DownstreamCxUpgradesActive   Gauge     `stat:"downstream_cx_upgrades_active"`
	DownstreamCxDestroy          Counter   `stat:"downstream_cx_destroy"`
	DownstreamCxDestroyLocal     Counter   `stat:"downstream_cx_destroy_local"`
	DownstreamCxDestroyRemote    Counter   `stat:"downstream_cx_destroy_remote"`
	DownstreamCxDestroyActive    Counter   `stat:"downstream_cx_destroy_active_rq"`
	DownstreamCxDestroyLocActive Counter   `stat:"downstream_cx_destroy_local_active_rq"`
	DownstreamCxDestroyRemActive Counter   `stat:"downstream_cx_destroy_remote_active_rq"`
	DownstreamCxDrainClose       Counter   `stat:"downstream_cx_drain_close"`
	DownstreamCxIdleTimeout      Counter   `stat:"downstream_cx_idle_timeout"`
	DownstreamCxMaxDuration      Counter   `stat:"downstream_cx_max_duration_reached"`
	DownstreamCxProtocolError    Counter   `stat:"downstream_cx_protocol_error"`
	DownstreamCxLengthMs         Histogram `stat:"downstream_cx_length_ms"`

	NoRoute          Counter `stat:"no_route"`
	NoCluster        Counter `stat:"no_cluster"`
	RqDirectResponse Counter `stat:"rq_direct_response"`
	RqRedirect       Counter `stat:"rq_redirect"`
	RqResetAfter     Counter `stat:"rq_reset_after_downstream_response_started"`

	Fault Fault `stat:"fault"`
	CORS  CORS  `stat:"cors"`
}

// Fault is http.STAT_PREFIX.fault.*
type Fault struct {
	DelaysInjected Counter `stat:"delays_injected"`
	AbortsInjected Counter `stat:"aborts_injected"`
	Active         Gauge   `stat:"active_faults"`
}

// CORS is http.STAT_PREFIX.cors.*: requests with an Origin, by whether it is allowed.
type CORS struct {
	OriginValid   Counter `stat:"origin_valid"`
	OriginInvalid Counter `stat:"origin_invalid"`
}

// Listener is listener.ADDRESS.*, the address with its ':' as '_', as in Envoy.
type Listener struct {
	DownstreamCxTotal     Counter   `stat:"downstream_cx_total"`
	DownstreamCxActive    Gauge     `stat:"downstream_cx_active"`
	DownstreamCxDestroy   Counter   `stat:"downstream_cx_destroy"`
	DownstreamCxOverflow  Counter   `stat:"downstream_cx_overflow"`
	DownstreamPreCxActive Gauge     `stat:"downstream_pre_cx_active"`
	DownstreamPreCxTime   Counter   `stat:"downstream_pre_cx_timeout"`
	FilterError           Counter   `stat:"downstream_listener_filter_error"`
	FilterRemoteClose     Counter   `stat:"downstream_listener_filter_remote_close"`
	NoFilterChainMatch    Counter   `stat:"no_filter_chain_match"`
	DownstreamCxLengthMs  Histogram `stat:"downstream_cx_length_ms"`
}

// TCP is tcp.STAT_PREFIX.*, one for each stat_prefix of TCP proxies.
type TCP struct {
	DownstreamCxTotal   Counter `stat:"downstream_cx_total"`
	DownstreamCxNoRoute Counter `stat:"downstream_cx_no_route"`
	DownstreamCxRxBytes Counter `stat:"downstream_cx_rx_bytes_total"`
	DownstreamCxTxBytes Counter `stat:"downstream_cx_tx_bytes_total"`
	IdleTimeout         Counter `stat:"idle_timeout"`
	MaxDuration         Counter `stat:"max_downstream_connection_duration"`
	UpstreamFlushTotal  Counter `stat:"upstream_flush_total"`
	UpstreamFlushActive Gauge   `stat:"upstream_flush_active"`
}

// Server is server.*; the Registry fills it when it renders, but for Live and State.
type Server struct {
	Live             Gauge `stat:"live"`  // 1 once it serves and until it drains
	State            Gauge `stat:"state"` // 0 LIVE, 1 DRAINING, 2 PRE_INITIALIZING, 3 INITIALIZING
	Uptime           Gauge `stat:"uptime"`
	Concurrency      Gauge `stat:"concurrency"`
	MemoryAllocated  Gauge `stat:"memory_allocated"`
	MemoryHeapSize   Gauge `stat:"memory_heap_size"`
	MemoryPhysical   Gauge `stat:"memory_physical_size"`
	TotalConnections Gauge `stat:"total_connections"`
	HotRestartEpoch  Gauge `stat:"hot_restart_epoch"`
	Goroutines       Gauge `stat:"goroutines"`         // not Envoy's
	Allocations      Gauge `stat:"memory_allocations"` // objects allocated on the heap since the start; not Envoy's
}

// Detour is detour.*: the compiler's side, and what concerns no cluster.
type Detour struct {
	ConfigObjects    Gauge   `stat:"config.objects"`           // objects in force
	ConfigRejected   Gauge   `stat:"config.rejected"`          // objects dropped now (their last good version may serve)
	SnapshotUpdates  Counter `stat:"snapshot.updates"`         // snapshots put in force
	SnapshotRejected Counter `stat:"snapshot.rejected"`        // resources that the engine refused
	PassthroughCx    Counter `stat:"passthrough.cx_total"`     // connections to where nothing is declared
	RefusedCx        Counter `stat:"passthrough.cx_refused"`   // the same under registry-only
	LocalFaults      Counter `stat:"local_fault.total"`        // failures that were this machine's own
	AccessLogDropped Counter `stat:"access_log.dropped"`       // log entries without room in the buffer
	AccessLogWritten Counter `stat:"access_log.written"`       // log entries written
	AccessLogFailed  Counter `stat:"access_log.write_failed"`  // writes that failed
	ListenerErrors   Counter `stat:"listener.accept_failures"` // accepts that failed, for want of descriptors mostly
}

// Host is what is counted for one endpoint; it appears in /clusters, not in /stats.
type Host struct {
	RqTotal         Counter `stat:"rq_total"`
	RqActive        Gauge   `stat:"rq_active"`
	RqSuccess       Counter `stat:"rq_success"` // answered, not with 5xx
	RqError         Counter `stat:"rq_error"`
	RqTimeout       Counter `stat:"rq_timeout"`
	RqPendingActive Gauge   `stat:"rq_pending_active"`
	CxTotal         Counter `stat:"cx_total"`
	CxActive        Gauge   `stat:"cx_active"`
	CxConnectFail   Counter `stat:"cx_connect_fail"`
}
